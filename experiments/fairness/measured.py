"""What each way to measure a bias gives: its numbers, and how they are shown."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from lm.fairness.likelihoods import Scorer
from lm.inference.writing import Writer
from lm.models.families import random_like
from lm.models.parameters import Params
from lm.results import forest_plot

RANDOM_SEEDS = (0, 1, 2)  # Of weights that no text has shaped, and so no bias of a text.


class Measured(NamedTuple):
    """Holds what goes into fairness.json and fairness.png."""

    contents: dict[str, Any]
    panels: forest_plot.Panels
    line: float | None  # Where no bias is, in the picture; None: nowhere.


def beside_random(
    opened: Scorer | Writer, of: Callable[[Params], Any], seeds: Sequence[int] = RANDOM_SEEDS
) -> dict[str, Any]:
    """Measures a model, and beside it the same architecture as runs of it begin."""
    found = {"this model": of(opened.params)}
    for seed in seeds:
        found[f"random weights {seed}"] = of(random_like(opened.model, opened.params, seed))
    return found


def cell(measure: Mapping[str, Any]) -> str:
    """Writes a value with its interval, as far as it is defined."""
    if measure["value"] is None:
        return "-"
    bounds = measure["interval"]
    said = f" ({bounds[0]:.3f} to {bounds[1]:.3f})" if bounds else ""
    return f"{measure['value']:.3f}{said}"
