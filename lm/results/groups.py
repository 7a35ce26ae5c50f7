"""Runs whose configs differ in their seed alone, as one: means, standard errors, intervals."""

import dataclasses
import difflib
import json
import math
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.metrics import seed_average
from lm.results.reading import MOST_NAMED, RunRecord, natural, some
from lm.train.early_stopping import MODES, ranked

AT = ("last", "best")
LEVEL = 0.95  # Of intervals.
_NUM_RESAMPLES = 9999
# How a metric's name begins, behind train/ or eval/.
_LESS_IS_BETTER = re.compile(
    "loss|perplexity|bits_per_byte|mse|grad_norm|skipped|step_seconds|data_wait|compile_seconds"
    "|memory|peak_memory"
)
_MORE_IS_BETTER = re.compile(
    "accuracy|subset_accuracy|token_accuracy|f1|precision|recall|matthews|pearson|spearman"
    "|exact_match|HasAns_|NoAns_|bleu|chrf|rouge|tokens_per_second|mfu"
)


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A metric over the runs of a group, which are called by their names."""

    values: dict[str, float]  # Of the runs that count; finite.
    nan: tuple[str, ...]  # Those that would count, but for their value, which is not finite.
    at_times_nan: tuple[str, ...]  # Those that count with their best value, and have logged NaN.
    unfinished: tuple[str, ...]  # Those that are not done, whether they count or not.
    missing: tuple[str, ...]  # Those that never logged it.
    mean: float | None  # None of no run.
    standard_error: float | None  # None of one run, or none.
    interval: tuple[float, float] | None  # Of the mean; see `bootstrap_interval`.


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config but for what is grouped over."""

    settings: dict[str, Any]  # Those that differ between groups; without keys that it lacks.
    runs: tuple[RunRecord, ...]
    copies: tuple[str, ...]  # Names of those left out: another has the same config, seed and all.

    def label(self, keys: Sequence[str]) -> str:
        """Names it by some keys, as "optimizer.peak_lr=0.003"; "all" where it has none of them."""
        parts = [f"{key}={shown(self.settings[key])}" for key in keys if key in self.settings]
        if len(parts) > MOST_NAMED:
            parts[MOST_NAMED:] = [f"and {len(parts) - MOST_NAMED} more"]
        return " ".join(parts) or "all"

    def named(self, keys: Sequence[str], folders: Sequence[str]) -> str:
        """Names some of its runs, as "optimizer.peak_lr=0.003 (2 runs: 0a1b, 9f8e)"."""
        names = f"{len(folders)} runs: {some(folders)}" if len(folders) > 1 else folders[0]
        return f"{self.label(keys)} ({names})" if keys else names


def differences(configs: Sequence[dict[str, Any]]) -> list[str]:
    """Lists the keys of flat configs whose values differ, absent ones included."""
    keys = {key: None for config in configs for key in config}
    return [key for key in keys if len({_identity(config, key) for config in configs}) > 1]


def telling(groups: Sequence[Group]) -> list[str]:
    """Chooses the keys that tell groups apart; the first few alone do so as far as so few can.

    A key that some lack, as those of another task, counts only among groups that nothing else tells
    apart.
    """
    settings = [group.settings for group in groups]
    keys = differences(settings)
    common = [key for key in keys if all(key in one for one in settings)]
    alike: dict[tuple, list[dict[str, Any]]] = {}
    for one in settings:
        alike.setdefault(tuple(_identity(one, key) for key in common), []).append(one)
    needed = {*common, *(key for some in alike.values() for key in differences(some))}
    values = {key: [_identity(one, key) for one in settings] for key in keys if key in needed}
    first: list[str] = []
    for _ in range(min(MOST_NAMED, len(values))):  # The one that parts them most.
        num_parts = lambda key: len({*zip(*(values[x] for x in [*first, key]), strict=True)})
        first.append(max((key for key in values if key not in first), key=num_parts))
    return [*dict.fromkeys([*first, *values])]


def grouped(runs: Sequence[RunRecord], over: Collection[str]) -> list[Group]:
    """Runs that agree in all keys but `over`, in the order of their settings."""
    keys = [key for key in differences([run.config for run in runs]) if key not in over]
    groups: dict[tuple, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(_identity(run.config, key) for key in keys), []).append(run)
    made = []
    for of in groups.values():
        settings = {key: of[0].config[key] for key in keys if key in of[0].config}
        kept = _furthest(of)  # To count a copy would lower the error for nothing.
        names = {run.name for run in kept}  # Compared as such: runs hold series.
        copies = tuple(run.name for run in of if run.name not in names)
        made.append(Group(settings, tuple(kept), copies))
    return sorted(made, key=lambda group: [_order(group.settings, key) for key in keys])


def final(run: RunRecord, metric: str, at: str, mode: str | None) -> float | None:
    """Gives a run's last value, or its best by `mode`; NaN if not finite, None without any."""
    series = run.series.get(metric)
    if series is None:
        return None
    if at == "last":
        return float(series.values[-1])
    by_step = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    # By the rule that chooses a run's best checkpoint: NaN is best only where all are.
    return by_step[ranked([*by_step.items()], mode)[0]]


def estimate(
    group: Group, metric: str, *, at: str, mode: str | None, with_unfinished: bool
) -> Estimate:
    """Averages a metric over the runs of a group that are done, or over all of them.

    Args:
      at: "last" or "best", see `final`.
      mode: "min" or "max"; only "best" needs it.
      with_unfinished: whether runs that are not done count too.
    """
    values, nan, at_times_nan, unfinished, missing = {}, [], [], [], []
    for run in group.runs:
        value = final(run, metric, at, mode)
        # A run that is not done has trained for less, so that its value is another quantity.
        if run.state.kind != "done":
            unfinished.append(run.name)
            if not with_unfinished:
                continue
        if value is None:
            missing.append(run.name)
        elif math.isnan(value):
            nan.append(run.name)  # Out of the mean, but said, and ranked behind by `ranking`.
        else:
            values[run.name] = value
            if at == "best" and np.isnan(run.series[metric].values).any():
                at_times_nan.append(run.name)
    counted = [*values.values()]
    mean, error = seed_average.over_runs(counted) if counted else (None, None)
    names = [tuple(found) for found in (nan, at_times_nan, unfinished, missing)]
    return Estimate(values, *names, mean, error, bootstrap_interval(counted))


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Computes the percentile interval of the mean at `LEVEL`; None for fewer than two values.

    Efron & Tibshirani 1993, chapter 13.
    """
    if len(values) < 2:
        return None
    from scipy import stats  # Half a second, which one run a config does not need.

    found = stats.bootstrap(
        (np.array(values),),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=_NUM_RESAMPLES,
        method="percentile",  # BCa, SciPy's default, is NaN where all values are equal.
        rng=np.random.default_rng(0),  # The same interval for the same values.
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def ranking(estimates: Sequence[Estimate], mode: str) -> list[int]:
    """Ranks the groups that have a mean, the best first, as indices."""
    with_mean = [i for i, e in enumerate(estimates) if e.mean is not None]
    sign = 1 if mode == "min" else -1
    # One with a run of NaN is behind all others: its mean is of the lucky seeds alone.
    return sorted(with_mean, key=lambda i: (bool(estimates[i].nan), sign * estimates[i].mean))


def mode_of(metric: str, asked: str | None) -> str | None:
    """Says whether less ("min") or more ("max") of a metric is better; None if nobody knows."""
    if asked is not None:
        return asked
    name = metric.partition("/")[2]
    if _LESS_IS_BETTER.match(name):
        return MODES[0]
    return MODES[1] if _MORE_IS_BETTER.match(name) else None


def needed_mode(metric: str, asked: str | None) -> str:
    """Calls `mode_of`, and raises UserError where nobody knows."""
    if mode := mode_of(metric, asked):
        return mode
    raise UserError(f"--metric={metric}: say --mode=min if less of it is better, or --mode=max")


def check_key(key: str, runs: Sequence[RunRecord]) -> None:
    """Raises UserError where no config has the key."""
    known = {key for run in runs for key in run.config}
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else "; see config.json for the keys"
        raise UserError(f"--over={key} is no key of these configs{hint}")


def check_metric(metric: str, runs: Sequence[RunRecord]) -> None:
    """Raises UserError where no run has the metric, of runs that were read with all of theirs."""
    known = sorted(set().union(*(run.series for run in runs)), key=natural)
    if metric in known:
        return
    near = difflib.get_close_matches(metric, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    there = f"there are {', '.join(known)}" if known else "nothing was logged"
    raise UserError(f"--metric={metric}: no run has it; {hint}{there}")


def shown(value: Any) -> str:
    """Writes a value of a config on one line."""
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "":
        return value
    return json.dumps(value, ensure_ascii=False)


def _furthest(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """Keeps one run of each config, the one that came furthest."""
    by_config: dict[str, list[RunRecord]] = {}
    for run in runs:
        by_config.setdefault(json.dumps(run.config, sort_keys=True), []).append(run)
    progress = lambda run: (run.state.kind == "done", run.state.step)
    return [max(copies, key=progress) for copies in by_config.values()]  # The first of equal ones.


def _identity(config: dict[str, Any], key: str) -> str | None:
    # As JSON: True, 1 and 1.0 are three values, though equal; and lists can be keys of a dict.
    return json.dumps(config[key], sort_keys=True) if key in config else None


def _order(settings: dict[str, Any], key: str) -> tuple:
    """Makes a sort key: absent values first, then numbers, then all else as text."""
    if key not in settings:
        return (0,)
    value = settings[key]
    is_number = type(value) in (int, float)  # And no bool, which is an int to `isinstance`.
    return (1, value) if is_number else (2, natural(shown(value)))
