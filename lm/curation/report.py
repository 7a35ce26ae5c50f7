"""The report of a curation as a page and pictures, which are functions of report.json alone.

`python -m lm.curation.report WORKDIR` writes them again.
"""

import json
import math
import pathlib
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

from lm.curation import ledger as ledger_lib
from lm.curation import pictures, tallies
from lm.curation.tallies import Histogram
from lm.system import atomic_files, safe_text

PAGE = "report.html"
# Of languages: how many a page shows by themselves, with their measures, and with samples.
_MOST_WATERFALLS, _MOST_MEASURED, _MOST_SAMPLES = 12, 6, 8
_WIDTH, _HEIGHT = 300, 90  # Of a histogram, in units of its own.
# Of text from right to left, which needs them; the end of an element ends what they order.
_MARKS = "\u061c\u200e\u200f"
_BETWEEN_MARKS = re.compile(f"[^{_MARKS}]+")
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")


def write(report: Mapping[str, Any], workdir: pathlib.Path) -> list[str]:
    """Writes the page and the pictures of what was curated; gives the names of the files."""
    atomic_files.write(workdir / PAGE, page(report))
    return [PAGE, *pictures.write(report, workdir)]


def page(report: Mapping[str, Any]) -> str:
    """Gives the page, which needs nothing else: no script, no other file, no network."""
    ledger = ledger_lib.of_rows(report["ledger"])
    languages = tallies.shares(ledger, "language")
    stages = tallies.stages(report)
    steps = tallies.waterfall(ledger, stages)
    measured = tallies.histograms(report)
    shown = list(measured)[:_MOST_MEASURED]
    return _TEMPLATES.get_template("report.html.jinja").render(
        read=steps[0].left,
        kept=steps[-1].left,
        steps=steps,
        languages=languages,
        by_language=[
            (one.name, tallies.waterfall(tallies.only(ledger, language=one.name), stages))
            for one in languages[:_MOST_WATERFALLS]
        ],
        sources=tallies.shares(ledger, "source"),
        num_written=sum(row["num_bytes"] for row in report["written"]),
        losses=tallies.losses(ledger),
        measured={name: [(one, _drawn(one)) for one in measured[name]] for name in shown},
        num_measured=len(measured),
        masked=report["masked"],
        not_judged=report.get("not_judged"),  # There if anything was.
        items=report.get("items"),  # There if any were looked for.
        clusters=report["clusters"],
        fates=_by_fate(report["samples"], [one.name for one in languages], steps),
    )


def _by_fate(
    groups: Sequence[Mapping[str, Any]],
    languages: Sequence[str],
    steps: Sequence[tallies.Step],
) -> list[tuple[tallies.Step, list[Mapping[str, Any]]]]:
    """Gives samples of what was kept, and then of each reason in the order of the waterfall.

    Of a reason every language has its turn, the largest first.
    """
    found = []
    for step in [steps[-1], *steps[1:-1]]:
        turns = [
            (turn, languages.index(group["language"]), one | {"language": group["language"]})
            for group in groups
            if (group["stage"], group["reason"]) == (step.stage, step.reason)
            for turn, one in enumerate(group["documents"])
        ]
        turns.sort(key=lambda each: each[:2])
        found.append((step, [one for *_, one in turns[:_MOST_SAMPLES]]))
    return found


def _drawn(histogram: Histogram) -> dict[str, Any]:
    """Gives the shapes of a histogram; heights are logarithms, so that the rare is seen."""
    low, high = tallies.domain(histogram)
    start, span = tallies.place(low), tallies.place(high) - tallies.place(low)
    x = lambda value: round((tallies.place(value) - start) / span * _WIDTH, 2)
    top = max(bar.documents for bar in histogram.bars)
    y = lambda count: round(math.log1p(count) / math.log1p(top) * _HEIGHT, 2)
    bars = [
        {
            "x": x(bar.low),
            "width": round(x(bar.high) - x(bar.low), 2),
            "height": y(bar.documents),
            "kept": y(bar.kept),
            "title": f"{bar.low:g} to {bar.high:g}: {bar.documents:,}, {bar.kept:,} kept",
        }
        for bar in histogram.bars
    ]
    outside = []
    if histogram.least is not None:
        outside.append({"x": 0, "width": x(histogram.least), "line": x(histogram.least)})
    if histogram.most is not None:
        at = x(histogram.most)
        outside.append({"x": at, "width": round(_WIDTH - at, 2), "line": at})
    levels = [10**power for power in range(len(str(top)))]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "bars": bars,
        "outside": outside,
        "ticks": [(x(value), f"{value:,g}") for value in tallies.ticks(low, high)],
        "levels": [(y(level), f"{level:,}") for level in levels[:: max(1, len(levels) // 3)]],
    }


def _shown(value: Any) -> Any:
    """Makes text of others fit to be shown; see `safe_text`. Jinja escapes what comes of it."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return _BETWEEN_MARKS.sub(lambda found: safe_text.shown(found[0]), value)


def _breakable(name: str) -> markupsafe.Markup:
    """Lets a narrow column break a name behind each underscore."""
    return markupsafe.Markup("_<wbr>").join(_shown(name).split("_"))


def _size(num_bytes: int) -> str:
    """12345678 -> "12.3 MB"."""
    value, unit = float(num_bytes), "B"
    for unit in ("B", "kB", "MB", "GB", "TB", "PB"):
        if value < 999.5 or unit == "PB":
            break
        value /= 1000
    digits = 0 if unit == "B" or value >= 99.95 else 1
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}{unit}"


def _ratio(part: int, whole: int) -> str:
    """The same for CSS."""
    return f"{100 * part / max(whole, 1):.3f}%"


def _language_tag(name: str) -> str:
    """Gives what HTML may call a language, so that Chinese characters get the shapes of theirs."""
    return name if _LANGUAGE.fullmatch(name) else ""


_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    finalize=_shown,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.filters |= {
    "size": _size,
    "breakable": _breakable,
    "percent": tallies.percent,
    "ratio": _ratio,
    "tag": _language_tag,
}

if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    write(json.loads((folder / "report.json").read_bytes()), folder)
