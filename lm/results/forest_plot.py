"""Draws shares with their intervals, a panel a score and a line a share."""

import pathlib
import warnings
from collections.abc import Mapping
from typing import NamedTuple

from matplotlib import colormaps
from matplotlib.figure import Figure

from lm.results.plots import covering
from lm.system import atomic_files, safe_text


class Share(NamedTuple):
    """A share with its interval; None where it is not defined. Shares of a group have one color."""

    value: float | None
    interval: tuple[float, float] | None
    group: int


Panels = Mapping[str, Mapping[str, Share]]  # By score, by what has it.


def save(panels: Panels, path: pathlib.Path, *, line: float | None) -> str:
    """Writes a PNG; returns the characters of its names that no installed font has.

    Args:
      panels: with the same lines each.
      path: of the PNG.
      line: where no bias is; None: nowhere.
    """
    names = list(next(iter(panels.values())))
    shown = {name: safe_text.escaped(name) for name in (*panels, *names)}
    with covering([*shown.values()]) as missing, warnings.catch_warnings():
        if missing:
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # It is said once.
        size = (2.2 + 2.6 * len(panels), 1 + 0.24 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
        for axes, (title, shares) in zip(grid, panels.items(), strict=True):
            for place, name in enumerate(names):
                share = shares[name]
                if share.value is None:
                    continue
                color = colormaps["tab10"](share.group % 10)
                if share.interval is not None:
                    axes.plot(share.interval, (place, place), color=color, linewidth=1.6)
                axes.plot(share.value, place, "o", color=color, markersize=5)
            if line is not None:
                axes.axvline(line, color="0.5", linewidth=0.8, linestyle="--")
            axes.set_title(shown[title], fontsize="medium", parse_math=False)
            axes.set_yticks(range(len(names)), [shown[name] for name in names], fontsize="small")
            axes.grid(axis="x", alpha=0.3)
            for text in axes.get_yticklabels():
                text.set_parse_math(False)  # A "$" in a name is one.
        drawn = [share for shares in panels.values() for share in shares.values()]
        lows = [x.interval[0] if x.interval else x.value for x in drawn if x.value is not None]
        grid[0].set_xlim(-1.02 if min(lows, default=0) < 0 else -0.02, 1.02)  # Or differences.
        grid[0].set_ylim(len(names) - 0.5, -0.5)  # The first on top.
        with atomic_files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
    return missing
