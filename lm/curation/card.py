"""The data card of a corpus, in Markdown: what is in it, from where, and what was dropped."""

import re
from collections.abc import Sequence
from typing import Any

from lm.curation import ledger as ledger_lib
from lm.curation.inputs import Input
from lm.system import safe_text

_GAPS = """\
- Languages are told by a detector, whose accuracy differs from language to language.
- Private data is found by its form: names of people, postal addresses and dates of birth stay.
- Nothing here looks for what is false, hateful, or somebody's property.
- Near-duplicates that share no band of MinHash are not found."""


def card(report: dict[str, Any], inputs: Sequence[Input], config: str) -> str:
    """Gives the card.

    Args:
      report: see `summary.report`.
      inputs: what was read.
      config: the resolved config, as text.
    """
    ledger = ledger_lib.of_rows(report["ledger"])
    read = ledger_lib.by(ledger, ("source",))
    kept = {
        key[0]: n for key, n in ledger_lib.by(ledger, ("source", "stage")).items() if not key[1]
    }
    rows = [
        (one.name, one.kind, one.licence or "not stated", read.get((one.name,)), kept.get(one.name))
        for one in inputs
    ]
    total = {
        name: sum(row[name] for row in report["written"]) for name in ("documents", "num_bytes")
    }
    languages: dict[str, list[int]] = {}
    for row in report["written"]:
        counts = languages.setdefault(row["language"], [0, 0])
        counts[0] += row["documents"]
        counts[1] += row["num_bytes"]
    reasons = sorted(ledger_lib.by(ledger, ("stage", "reason")).items())
    nothing = ledger_lib.Count()
    parts = [
        "# Data card",
        f"{total['documents']:,} documents, {total['num_bytes']:,} bytes of text.",
        "## Sources",
        _table(
            ("source", "kind", "licence", "documents read", "kept", "bytes read", "kept"),
            [
                (name, kind, licence, *_pair(before or nothing, after or nothing))
                for name, kind, licence, before, after in rows
            ],
        ),
        "## Languages",
        _table(
            ("language", "documents", "bytes"),
            [(name, f"{n[0]:,}", f"{n[1]:,}") for name, n in sorted(languages.items())],
        ),
        "## What was dropped",
        _table(
            ("stage", "reason", "documents", "bytes"),
            [
                (stage, reason, f"{n.documents:,}", f"{n.num_bytes:,}")
                for (stage, reason), n in reasons
                if stage
            ],
        ),
        "Masked: "
        + (", ".join(f"{n:,} {kind}" for kind, n in report["masked"].items()) or "nothing"),
        "## Known gaps",
        _GAPS,
        "## Settings",
        f"```yaml\n{config.rstrip()}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _pair(before: ledger_lib.Count, after: ledger_lib.Count) -> tuple[str, ...]:
    counts = (before.documents, after.documents, before.num_bytes, after.num_bytes)
    return tuple(f"{count:,}" for count in counts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Keeps text of others in its cell, and from being markup."""
    line = " ".join(safe_text.shown(text).split())
    return re.sub(r"([\\`*\[\]<>#|&~]|(?<!\w)_|_(?!\w))", r"\\\1", line)
