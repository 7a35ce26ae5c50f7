"""Curves as PNG, a file a metric."""

import dataclasses
import pathlib
import textwrap
import warnings
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm.errors import UserError
from lm.results import fonts
from lm.results.curves import Chosen, Curve, choose, curves_of, is_wide
from lm.results.reading import RunRecord
from lm.results.views import Choice
from lm.system import atomic_files, safe_text

_GREY = "0.8"


def save(
    runs: Sequence[RunRecord], choice: Choice, folder: pathlib.Path
) -> tuple[list[pathlib.Path], str]:
    """Draws each metric of the choice into the folder, such as eval/loss into eval_loss.png.

    Returns the files, and the characters of their text that no installed font has.

    Raises:
      UserError: there is nothing to draw.
    """
    if not choice.metrics:
        raise UserError("no run has logged anything that could be drawn")
    chosen = choose(runs, choice)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    texts = [safe_text.escaped(x) for x in (*choice.metrics, *(g.label for g in chosen.named))]
    with fonts.covering(texts) as missing, warnings.catch_warnings():
        if missing:
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # It is said once.
        for metric in choice.metrics:
            paths.append(folder / f"{safe_text.escaped(metric).replace('/', '_')}.png")
            figure = _figure(chosen, metric, choice.with_unfinished)
            with atomic_files.replacing(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
    return paths, missing


def _figure(chosen: Chosen, metric: str, with_unfinished: bool) -> Figure:
    # Not by pyplot, which keeps every figure and looks for a screen.
    names = len(chosen.named) + 1
    figure = Figure(figsize=(8, 4 + 0.2 * names), layout="constrained")
    axes = figure.add_subplot()
    drawn = []
    for group in chosen.others:
        for curve in curves_of(group, metric, with_unfinished):
            # Without a band, for many of them would hide everything.
            _draw(axes, dataclasses.replace(curve, error_T=None), _GREY, label="_", width=0.8)
            drawn.append(curve)
    for i, group in enumerate(chosen.named):
        for curve in curves_of(group, metric, with_unfinished):
            label = textwrap.fill(safe_text.escaped(curve.label), 100)
            _draw(axes, curve, colormaps["tab10"](i), label=label, width=1.6)
            drawn.append(curve)
    if chosen.others:
        axes.plot([], [], color=_GREY, label=f"{len(chosen.others)} other configs")
    if is_wide(drawn):
        axes.set_yscale("log")
    has_band = any(curve.error_T is not None for curve in drawn)
    axes.set_xlabel("step")
    axes.set_ylabel(safe_text.escaped(metric), parse_math=False)
    axes.set_title("mean over runs ± standard error" if has_band else "", fontsize="medium")
    axes.grid(alpha=0.3)
    legend = figure.legend(loc="outside lower center", fontsize="small", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # A "$" in a config is one.
    return figure


def _draw(axes: Axes, curve: Curve, color, label: str, width: float) -> None:
    style = "-" if curve.is_finished else "--"
    marker = "o" if len(curve.steps_T) == 1 else None
    axes.plot(
        *(curve.steps_T, curve.mean_T, style),
        color=color,
        label=label,
        linewidth=width,
        marker=marker,
        markersize=4,
    )
    if curve.error_T is not None:
        low_T, high_T = curve.mean_T - curve.error_T, curve.mean_T + curve.error_T
        axes.fill_between(curve.steps_T, low_T, high_T, color=color, alpha=0.2, linewidth=0)
