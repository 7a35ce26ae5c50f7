"""Curves of metrics over steps: of configs, as mean and band over their runs.

Dimension key: R runs, T steps.
"""

import dataclasses
import functools
import itertools
from collections.abc import Sequence

import numpy as np

from lm.results.groups import Group, grouped, telling
from lm.results.reading import RunRecord
from lm.results.views import Choice

MOST_NAMED = 10  # As many colours as an eye tells apart.


@dataclasses.dataclass(frozen=True)
class Curve:
    """A metric over the steps at which every one of some runs has it."""

    label: str  # What the config has of its own, the folders, and what is odd about a run.
    runs: tuple[str, ...]  # Their names.
    steps_T: np.ndarray
    mean_T: np.ndarray  # NaN where one of them is.
    error_T: np.ndarray | None  # The standard error; None for one run.
    is_finished: bool  # All of them are done.


@dataclasses.dataclass(frozen=True)
class Chosen:
    """Configs to draw, the best first where it is known what is better."""

    named: list[Group]  # Those that get a colour and a name.
    others: list[Group]  # Those that are too many for it.

    def curves(self, metric: str, with_unfinished: bool) -> list[tuple[Curve, int | None]]:
        """Gives each curve with the index of its config; first those of `others`, with None."""
        numbered = [*((group, None) for group in self.others)]  # Drawn first, so below the rest.
        numbered += [(group, i) for i, group in enumerate(self.named)]
        having = [g for g, _ in numbered if any(metric in run.series for run in g.runs)]
        made = functools.partial(curves_of, telling(having), metric, with_unfinished)
        return [(curve, i) for group, i in numbered for curve in made(group)]

    def other_names(self, metric: str) -> str:
        """Counts the others that have a metric, as "3 other configs"; "" where none has."""
        num = sum(any(metric in run.series for run in group.runs) for group in self.others)
        return f"{num} other {'config' if num == 1 else 'configs'}" if num else ""


def choose(runs: Sequence[RunRecord], choice: Choice) -> Chosen:
    """Chooses the configs to name, by the first metric: one has the same colour in every plot."""
    groups = grouped(runs, choice.over)
    ordered = [groups[i] for i in choice.order(groups, {})]
    return Chosen(ordered[:MOST_NAMED], ordered[MOST_NAMED:])


def curves_of(keys: Sequence[str], metric: str, with_unfinished: bool, group: Group) -> list[Curve]:
    """Averages the finished runs, or all if so wished; each other run is a curve by itself.

    Curves are named by these keys.
    """
    runs = [run for run in group.runs if metric in run.series]
    is_counted = lambda run: with_unfinished or run.state.kind == "done"
    counted = [*filter(is_counted, runs)]
    apart = [*itertools.filterfalse(is_counted, runs)]
    names = [run.name for run in counted]
    made = [_mean(group.named(keys, names), counted, metric)] if counted else []
    for run in apart:
        made.append(_mean(group.named(keys, [f"{run.name}: {run.state.kind}"]), [run], metric))
    return made


def finite_parts(curve: Curve) -> list[slice]:
    """Finds the stretches of a curve without NaN."""
    finite_T = np.isfinite(curve.mean_T)
    # False at both ends makes rises and falls alternate: each stretch has one of either.
    edges = np.flatnonzero(np.diff(np.concatenate([[False], finite_T, [False]]).astype(int)))
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def thinned(curve: Curve, most: int) -> Curve:
    """Keeps at most so many points of a curve, evenly chosen, with the first and the last."""
    if len(curve.steps_T) <= most:
        return curve
    # Points as they are, and no averages, which would hide spikes of a loss.
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
    # Steps that all have: a mean over other runs at each step would jump where one ends.
    steps_T = functools.reduce(np.intersect1d, [x.steps for x in series])
    values_RT = np.stack([x.values[np.isin(x.steps, steps_T)] for x in series])
    has_error = len(runs) > 1  # s / sqrt(R), where s divides by R - 1.
    return Curve(
        label=label,
        runs=tuple(run.name for run in runs),
        steps_T=steps_T,
        mean_T=values_RT.mean(axis=0),
        error_T=values_RT.std(axis=0, ddof=1) / len(runs) ** 0.5 if has_error else None,
        is_finished=all(run.state.kind == "done" for run in runs),
    )
