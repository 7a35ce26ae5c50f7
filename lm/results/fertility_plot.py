"""Draws what tokenizers make of languages, a panel a measure."""

import pathlib
import warnings
from collections.abc import Mapping

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from lm.results.plots import covering
from lm.system import atomic_files, safe_text

# By tokenizer, by language, by name.
Measures = Mapping[str, Mapping[str, Mapping[str, float]]]


def save(measures: Measures, path: pathlib.Path) -> str:
    """Writes a PNG; returns the characters of its names that no installed font has."""
    tokenizers = list(measures)
    languages = list(measures[tokenizers[0]])
    names = list(measures[tokenizers[0]][languages[0]])
    shown = {name: safe_text.escaped(name) for name in (*tokenizers, *languages)}
    with covering([*shown.values()]) as missing, warnings.catch_warnings():
        if missing:
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # It is said once.
        num_rows = -(-len(names) // 2)
        figure = Figure(figsize=(9, 2.6 * num_rows + 0.25 * len(tokenizers)), layout="constrained")
        panels = figure.subplots(num_rows, 2, squeeze=False).flat
        width = 0.8 / len(tokenizers)
        for axes, name in zip(panels, names, strict=False):
            for i, tokenizer in enumerate(tokenizers):
                places = np.arange(len(languages)) + (i - (len(tokenizers) - 1) / 2) * width
                values = [measures[tokenizer][language][name] for language in languages]
                label = shown[tokenizer]
                bars = axes.bar(
                    places, values, width, color=colormaps["tab10"](i % 10), label=label
                )
                axes.bar_label(bars, fmt="%.2f", fontsize="x-small")
            axes.set_title(name, fontsize="medium")
            axes.set_xticks(range(len(languages)), [shown[x] for x in languages])
            axes.margins(y=0.15)
            axes.set_ylim(bottom=0)  # Also where all are 0.
        for axes in list(panels)[len(names) :]:
            axes.set_visible(False)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        legend = figure.legend(
            handles, labels, loc="outside lower center", fontsize="small", frameon=False
        )
        for text in (*legend.get_texts(), *(t for a in figure.axes for t in a.get_xticklabels())):
            text.set_parse_math(False)  # A "$" in a name is one.
        with atomic_files.replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format="png")
    return missing
