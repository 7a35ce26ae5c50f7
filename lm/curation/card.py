"""The data card of a corpus, in Markdown: what is in it, from where, and what was dropped."""

from collections.abc import Sequence
from typing import Any

from lm.curation import ledger as ledger_lib
from lm.curation import tallies
from lm.curation.inputs import Input
from lm.system import markdown

_COUNTS = ("documents read", "kept", "bytes read", "kept")
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
    by_source = {one.name: one for one in tallies.shares(ledger, "source")}
    languages = tallies.shares(ledger, "language")
    steps = [one for one in tallies.waterfall(ledger, tallies.stages(report)) if one.stage]
    total = {
        name: sum(row[name] for row in report["written"]) for name in ("documents", "num_bytes")
    }
    nothing = tallies.Share("", ledger_lib.Count(), ledger_lib.Count(), "", 0)
    parts = [
        "# Data card",
        f"{total['documents']:,} documents, {total['num_bytes']:,} bytes of text.",
        "## Sources",
        markdown.table(
            ("source", "kind", "licence", *_COUNTS),
            [
                (one.name, one.kind, one.licence or "not stated", *_counts(share))
                for one in inputs
                for share in (by_source.get(one.name, nothing),)
            ],
        ),
        "## Languages",
        markdown.table(
            (*("language", *_COUNTS), "most kept bytes are from"),
            [(one.name, *_counts(one), _largest(one)) for one in languages],
        ),
        "## What was dropped",
        markdown.table(
            ("stage", "reason", "documents", "bytes"),
            [
                (one.stage, one.reason, f"{one.taken.documents:,}", f"{one.taken.num_bytes:,}")
                for one in steps
            ],
        ),
        "Masked: "
        + (", ".join(f"{n:,} {kind}" for kind, n in report["masked"].items()) or "nothing"),
        "## Known gaps",
        "\n".join([*_gaps(report, inputs, steps), _GAPS]),
        "## Settings",
        markdown.fenced(config, "yaml"),
    ]
    return "\n\n".join(parts) + "\n"


def _counts(one: tallies.Share) -> tuple[str, ...]:
    counts = (one.read.documents, one.kept.documents, one.read.num_bytes, one.kept.num_bytes)
    return tuple(f"{count:,}" for count in counts)


def _largest(one: tallies.Share) -> str:
    if not one.largest:
        return ""
    return f"{one.largest}, {tallies.percent(one.largest_bytes, one.kept.num_bytes)}"


def _gaps(
    report: dict[str, Any], inputs: Sequence[Input], steps: Sequence[tallies.Step]
) -> list[str]:
    """Gives the gaps of this corpus, where the others are those of all."""
    unknown = [markdown.cell(one.name) for one in inputs if not one.licence]
    found = [f"- Nobody stated the licence of {name}." for name in unknown]
    unread = [one.taken for one in steps if one.stage == "read"]
    if unread:
        num_documents, num_bytes = map(sum, zip(*unread, strict=True))
        found.append(f"- {num_documents:,} documents, {num_bytes:,} bytes, could not be read.")
    if any(one.reason == "rest_of_file" for one in steps):
        found.append("- Files are damaged, and nobody knows how much stood behind the damage.")
    if not_judged := report.get("not_judged"):
        languages = ", ".join(
            f"{count:,} {markdown.cell(name)}" for name, count in not_judged.items()
        )
        found.append(f"- Of languages without thresholds nothing is judged: {languages}.")
    items = report.get("items")
    if items is None:
        found.append("- No items of evaluations were looked for.")
    elif num := sum(map(len, items["not_searched"].values())):
        found.append(f"- {num:,} items of evaluations were not looked for: too short, or common.")
    return found
