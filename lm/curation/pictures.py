"""Pictures of a curation as PNG: its waterfall, and its measures with their thresholds."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lm.curation import ledger as ledger_lib
from lm.curation import tallies
from lm.curation.ledger import Ledger
from lm.system import atomic_files

WATERFALL, MEASURES = "waterfall.png", "measures.png"
_MOST_LANGUAGES = 6  # The rest are one.
_OTHERS = "others"
_COLUMNS = 4


def write(report: Mapping[str, Any], workdir: pathlib.Path) -> list[str]:
    """Draws what report.json holds; of measures only if there are any; gives the files' names."""
    ledger = ledger_lib.of_rows(report["ledger"])
    _save(waterfall(ledger, tallies.stages(report)), workdir / WATERFALL)
    measured = tallies.histograms(report)
    if not measured:
        return [WATERFALL]
    _save(measures(measured), workdir / MEASURES)
    return [WATERFALL, MEASURES]


def _save(figure: Figure, path: pathlib.Path) -> None:
    with atomic_files.replacing(path) as part:
        figure.savefig(part, dpi=120, format="png")


def label(text: str) -> str:
    """Gives a name in characters that every font has: a box would tell nobody anything."""
    return text.encode("ascii", "backslashreplace").decode()


def waterfall(ledger: Ledger, stages: Sequence[str]) -> Figure:
    """Draws what each reason took from each language, and what of each is kept."""
    steps = tallies.waterfall(ledger, stages)
    languages = [one.name for one in tallies.shares(ledger, "language")]
    named = languages[:_MOST_LANGUAGES]
    counts = ledger_lib.by(ledger, ("stage", "reason", "language"))
    # Not by pyplot, which keeps every figure and looks for a screen.
    figure = Figure(figsize=(11, 1.6 + 0.28 * len(steps)), layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, 2, sharey=True)
    for axes, field in zip(panels, ("documents", "num_bytes"), strict=True):
        whole = getattr(steps[0].left, field)
        for row, step in enumerate(steps):
            of_step = {
                language: sum(
                    getattr(count, field)
                    for (stage, reason, of), count in counts.items()
                    if of == language and (row == 0 or (stage, reason) == (step.stage, step.reason))
                )
                for language in languages
            }
            start = getattr(step.left, field) if step.stage else 0
            for i, language in enumerate([*named, _OTHERS]):
                others = sum(of_step[name] for name in languages[_MOST_LANGUAGES:])
                width = others if language == _OTHERS else of_step[language]
                axes.barh(row, width, left=start, color=colormaps["tab10"](i))
                start += width
            taken = getattr(step.taken if step.stage else step.left, field)
            share = tallies.percent(taken, whole)
            axes.text(start + whole * 0.01, row, share, va="center", fontsize="x-small")
        axes.set_xlim(0, max(whole, 1) * 1.15)
        axes.set_xlabel("documents" if field == "documents" else "bytes")
        axes.xaxis.set_major_formatter(EngFormatter())
        axes.grid(axis="x", alpha=0.3)
        axes.set_axisbelow(True)
    names = [label(f"{step.stage}: {step.reason}" if step.stage else "") for step in steps]
    names[0], names[-1] = "read", "kept"
    panels[0].set_yticks(range(len(steps)), names, fontsize="small", parse_math=False)
    panels[0].invert_yaxis()
    shown = [*named, *([_OTHERS] if len(languages) > len(named) else [])]
    for i, language in enumerate(shown):
        panels[0].barh(0, 0, color=colormaps["tab10"](i), label=label(language))
    figure.legend(loc="outside upper center", ncols=len(shown), fontsize="small", frameon=False)
    return figure


def measures(measured: Mapping[str, Sequence[tallies.Histogram]]) -> Figure:
    """Draws each measure, a line a language, with the language's thresholds."""
    languages = list(measured)[:4]
    names = list(dict.fromkeys(one.measure for name in languages for one in measured[name]))
    rows, columns = math.ceil(len(names) / _COLUMNS), min(_COLUMNS, len(names))
    figure = Figure(figsize=(3 * columns, 0.8 + 2 * rows), layout="constrained")
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        _measure(axes, name, {language: measured[language] for language in languages})
    figure.supylabel("share of those measured", fontsize="small")
    for i, language in enumerate(languages):
        panels[0].plot([], [], color=colormaps["tab10"](i), label=label(language))
    figure.legend(loc="outside upper center", ncols=len(languages), fontsize="small", frameon=False)
    return figure


def _measure(axes: Axes, name: str, measured: Mapping[str, Sequence[tallies.Histogram]]) -> None:
    found = [
        (i, one)
        for i, histograms in enumerate(measured.values())
        for one in histograms
        if one.measure == name
    ]
    for i, one in found:
        color, total = colormaps["tab10"](i), sum(bar.documents for bar in one.bars)
        edges, heights = [tallies.place(one.bars[0].low)], []
        for bar in one.bars:
            low, high = tallies.place(bar.low), tallies.place(bar.high)
            if low > edges[-1] + 1e-9:  # Between them there is nothing.
                edges.append(low)
                heights.append(0.0)
            edges.append(high)
            heights.append(bar.documents / total)
        axes.stairs(heights, edges, color=color, baseline=None)
        for bound in (one.least, one.most):
            if bound is not None:
                axes.axvline(tallies.place(bound), color=color, linestyle="--", linewidth=1)
    domains = [tallies.domain(one) for _, one in found]
    low, high = min(a for a, _ in domains), max(b for _, b in domains)
    marks = tallies.ticks(low, high)
    axes.set_xticks([tallies.place(mark) for mark in marks], [f"{mark:,g}" for mark in marks])
    axes.set_yscale("log")
    axes.tick_params(labelsize="x-small")
    axes.set_title(label(name), fontsize="small", parse_math=False)
    axes.grid(alpha=0.3)
