"""Curves as PNG, a file a metric, with text in any language."""

import contextlib
import dataclasses
import pathlib
import textwrap
import warnings
from collections.abc import Iterator, Sequence

import matplotlib
from matplotlib import colormaps, font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm.errors import UserError
from lm.results.curves import Chosen, Curve, choose, is_wide
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
    drawn = {metric: chosen.curves(metric, choice.with_unfinished) for metric in choice.metrics}
    labels = (x.label for curves in drawn.values() for x, config in curves if config is not None)
    texts = [safe_text.escaped(x) for x in (*choice.metrics, *labels)]
    with covering(texts) as missing, warnings.catch_warnings():
        if missing:
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # It is said once.
        for metric, curves in drawn.items():
            paths.append(folder / f"{safe_text.escaped(metric).replace('/', '_')}.png")
            figure = _figure(chosen, metric, curves)
            with atomic_files.replacing(paths[-1]) as temporary:
                figure.savefig(temporary, dpi=150, format="png")
    return paths, missing


def _figure(chosen: Chosen, metric: str, drawn: list[tuple[Curve, int | None]]) -> Figure:
    # Not by pyplot, which keeps every figure and looks for a screen.
    names = len(chosen.named) + 1
    figure = Figure(figsize=(8, 4 + 0.2 * names), layout="constrained")
    axes = figure.add_subplot()
    for curve, i in drawn:
        if i is None:  # Without a band, for many of them would hide everything.
            curve = dataclasses.replace(curve, error_T=None)
            _draw(axes, curve, _GREY, label="_", width=0.8)  # "_": not in the legend.
        else:
            label = textwrap.fill(safe_text.escaped(curve.label), 100)
            _draw(axes, curve, colormaps["tab10"](i), label=label, width=1.6)
    if others := chosen.other_names(metric):
        axes.plot([], [], color=_GREY, label=others)
    if is_wide([curve for curve, _ in drawn]):
        axes.set_yscale("log")
    has_band = any(curve.error_T is not None for curve, _ in drawn)
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
    how = dict(color=color, label=label, linewidth=width, marker=marker, markersize=4)
    axes.plot(curve.steps_T, curve.mean_T, style, **how)
    if curve.error_T is not None:
        low_T, high_T = curve.mean_T - curve.error_T, curve.mean_T + curve.error_T
        axes.fill_between(curve.steps_T, low_T, high_T, color=color, alpha=0.2, linewidth=0)


@contextlib.contextmanager
def covering(texts: Sequence[str]) -> Iterator[str]:
    """Has Matplotlib draw with installed fonts, and yields the characters that none of them has."""
    wanted = {character for text in texts for character in text if character.isprintable()}
    families = list(matplotlib.rcParams["font.family"])
    usual = font_manager.findfont(font_manager.FontProperties(family=families))
    missing = wanted - _characters(usual)
    for font in _installed() if missing else ():  # To list them takes long.
        if found := missing & _characters(font.fname):
            families.append(font.name)  # Matplotlib takes the first that has a character.
            missing -= found
    with matplotlib.rc_context({"font.family": families}):
        yield "".join(sorted(missing))


def font_hint(missing: str) -> str:
    """Says which characters `covering` has no font for, and how to mend it."""
    return (
        f"no installed font has {' '.join(missing)}, for which boxes are drawn; install one that "
        "has, such as Noto Sans CJK for Chinese, Japanese and Korean (Debian: fonts-noto-cjk)"
    )


def _installed() -> list[font_manager.FontEntry]:
    """Lists the upright fonts of a usual weight, those without serifs first."""
    # Matplotlib keeps the list of an earlier day, and does not look whether fonts have come since.
    known = {pathlib.Path(font.fname) for font in font_manager.fontManager.ttflist}
    for path in map(pathlib.Path, font_manager.findSystemFonts()):
        if path not in known:
            with contextlib.suppress(RuntimeError):  # Of a kind that FreeType does not draw.
                font_manager.fontManager.addfont(path)
    upright = [
        font
        for font in font_manager.fontManager.ttflist
        if font.style == "normal" and font.weight in (400, "normal", "regular", "book")
    ]
    return sorted(upright, key=lambda font: ("Sans" not in font.name, "Mono" in font.name))


def _characters(path: str) -> set[str]:
    try:
        return set(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # Gone since the list was made, or damaged.
        return set()
