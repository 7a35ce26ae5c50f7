"""Curves of metrics over steps: of configs, as mean and band over their runs.

Dimension key: R runs, T steps.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from lm.results.groups import Group, grouped, mode_of, ranking
from lm.results.reading import RunRecord
from lm.results.views import Choice

MOST_NAMED = 10  # As many colours as an eye tells apart.


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over the steps at which every one of some runs has it.

    label: what the config has of its own, the folders, and what is odd about a run.
    runs: their names.
    mean_T: NaN where one of them is.
    error_T: the standard error; None for one run.
    is_finished: all of them are done.
    """

    label: str
    runs: tuple[str, ...]
    steps_T: np.ndarray
    mean_T: np.ndarray
    error_T: np.ndarray | None
    is_finished: bool


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Configs to draw, the best first where it is known what is better.

    named: those that get a colour and a name.
    others: those that are too many for it.
    """

    named: list[Group]
    others: list[Group]


def choose(runs: Sequence[RunRecord], choice: Choice) -> Chosen:
    """Which configs to name, by the first metric, so that every plot gives one the same colour."""
    groups = grouped(runs, choice.over)
    order = list(range(len(groups)))
    if mode := mode_of(choice.metrics[0], choice.mode):
        best = ranking(choice.estimates(groups, choice.metrics[0]), mode)
        order = [*best, *(i for i in order if i not in set(best))]
    ordered = [groups[i] for i in order]
    return Chosen(ordered[:MOST_NAMED], ordered[MOST_NAMED:])


def curves_of(group: Group, metric: str, with_unfinished: bool) -> list[Curve]:
    """The mean of the finished runs, and each other run by itself; all in one if so wished."""
    runs = [run for run in group.runs if metric in run.series]
    counted = [run for run in runs if with_unfinished or run.state.kind == "done"]
    apart = [run for run in runs if run not in counted]
    names = [run.name for run in counted]
    made = [_mean(group.named(names), counted, metric)] if counted else []
    for run in apart:
        made.append(_mean(group.named([f"{run.name}: {run.state.kind}"]), [run], metric))
    return made


def finite_parts(curve: Curve) -> list[slice]:
    """The stretches of a curve without NaN."""
    finite_T = np.isfinite(curve.mean_T)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite_T, [False]]).astype(int)))
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def thinned(curve: Curve, most: int) -> Curve:
    """A curve of at most so many of its points, evenly chosen, with the first and the last."""
    if len(curve.steps_T) <= most:
        return curve
    kept = np.linspace(0, len(curve.steps_T) - 1, most).round().astype(int)
    return dataclasses.replace(
        curve,
        steps_T=curve.steps_T[kept],
        mean_T=curve.mean_T[kept],
        error_T=None if curve.error_T is None else curve.error_T[kept],
    )


def is_wide(curves: Sequence[Curve]) -> bool:
    """Whether values span so much that a logarithmic axis shows more of them."""
    values = np.concatenate([curve.mean_T for curve in curves])
    values = values[np.isfinite(values)]
    return bool(values.size and values.min() > 0 and values.max() > 20 * values.min())


def _mean(label: str, runs: Sequence[RunRecord], metric: str) -> Curve:
    series = [run.series[metric] for run in runs]
    steps_T = series[0].steps
    for other in series[1:]:
        steps_T = np.intersect1d(steps_T, other.steps, assume_unique=True)
    values_RT = np.stack([x.values[np.isin(x.steps, steps_T)] for x in series])
    error_T = None
    if len(runs) > 1:
        error_T = values_RT.std(axis=0, ddof=1) / len(runs) ** 0.5
    return Curve(
        label=label,
        runs=tuple(run.name for run in runs),
        steps_T=steps_T,
        mean_T=values_RT.mean(axis=0),
        error_T=error_T,
        is_finished=all(run.state.kind == "done" for run in runs),
    )
