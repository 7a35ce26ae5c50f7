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
    """A metric over the runs of a group.

    values: of the runs that count, by name; finite.
    nan: the names of runs that would count but for their value, which is not finite.
    at_times_nan: those that count with their best value and have logged some that are not finite.
    unfinished: those that are not done, whether they count or not.
    missing: those that never logged it.
    mean, standard_error: None of nothing, and of one run.
    interval: of the mean; see `bootstrap_interval`.
    """

    values: dict[str, float]
    nan: tuple[str, ...]
    at_times_nan: tuple[str, ...]
    unfinished: tuple[str, ...]
    missing: tuple[str, ...]
    mean: float | None
    standard_error: float | None
    interval: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs of one config but for what is grouped over.

    settings: the keys that differ between groups; one that the config lacks is left out.
    copies: the names of runs that are left out: another has the same config, seed and all, and came
      as far. To count it twice would halve the error for nothing.
    """

    settings: dict[str, Any]
    runs: tuple[RunRecord, ...]
    copies: tuple[str, ...]

    @property
    def label(self) -> str:
        """Such as "optimizer.peak_lr=0.003"; "all" where nothing differs."""
        parts = [f"{key}={shown(x)}" for key, x in self.settings.items()]
        if len(parts) > MOST_NAMED:
            parts[MOST_NAMED:] = [f"and {len(parts) - MOST_NAMED} more"]
        return " ".join(parts) or "all"

    def named(self, folders: Sequence[str]) -> str:
        """Names some of its runs, as "optimizer.peak_lr=0.003 (2 runs: 0a1b, 9f8e)"."""
        names = f"{len(folders)} runs: {some(folders)}" if len(folders) > 1 else folders[0]
        return f"{self.label} ({names})" if self.settings else names


def differences(configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of flat configs whose values are not the same in all, absent ones included."""
    keys = {key: None for config in configs for key in config}
    return [key for key in keys if len({_identity(config, key) for config in configs}) > 1]


def grouped(runs: Sequence[RunRecord], over: Collection[str]) -> list[Group]:
    """Runs that agree in all keys but `over`, in the order of their settings."""
    keys = [key for key in differences([run.config for run in runs]) if key not in over]
    groups: dict[tuple, list[RunRecord]] = {}
    for run in runs:
        groups.setdefault(tuple(_identity(run.config, key) for key in keys), []).append(run)
    made = []
    for of in groups.values():
        settings = {key: of[0].config[key] for key in keys if key in of[0].config}
        kept = _furthest(of)
        copies = tuple(run.name for run in of if run not in kept)
        made.append(Group(settings, tuple(kept), copies))
    return sorted(made, key=lambda group: [_order(group.settings, key) for key in keys])


def final(run: RunRecord, metric: str, at: str, mode: str | None) -> float | None:
    """A run's last value, or its best by `mode`; NaN where that is not finite, None without any."""
    series = run.series.get(metric)
    if series is None:
        return None
    if at == "last":
        return float(series.values[-1])
    by_step = dict(zip(series.steps.tolist(), series.values.tolist(), strict=True))
    return by_step[ranked([*by_step.items()], mode)[0]]


def estimate(
    group: Group, metric: str, *, at: str, mode: str | None, with_unfinished: bool
) -> Estimate:
    """A metric over the runs of a group that are done, or over all of them.

    Args:
      at: "last" or "best", see `final`.
      mode: "min" or "max"; only "best" needs it.
      with_unfinished: whether runs that are not done count too.
    """
    values, nan, at_times_nan, unfinished, missing = {}, [], [], [], []
    for run in group.runs:
        value = final(run, metric, at, mode)
        if run.state.kind != "done":
            unfinished.append(run.name)
            if not with_unfinished:
                continue
        if value is None:
            missing.append(run.name)
        elif math.isnan(value):
            nan.append(run.name)
        else:
            values[run.name] = value
            if at == "best" and np.isnan(run.series[metric].values).any():
                at_times_nan.append(run.name)
    of_all = (
        seed_average.over_runs([*values.values()]) if values else seed_average.Estimate(None, None)
    )
    return Estimate(
        values=values,
        nan=tuple(nan),
        at_times_nan=tuple(at_times_nan),
        unfinished=tuple(unfinished),
        missing=tuple(missing),
        mean=of_all.mean,
        standard_error=of_all.standard_error,
        interval=bootstrap_interval([*values.values()]),
    )


def bootstrap_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The percentile interval of the mean at `LEVEL` (Efron & Tibshirani 1993, chapter 13).

    The same numbers for the same values; None for fewer than two.
    """
    if len(values) < 2:
        return None
    from scipy import stats  # Half a second, which one run a config does not need.

    found = stats.bootstrap(
        (np.array(values),),
        np.mean,
        confidence_level=LEVEL,
        n_resamples=_NUM_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = found.confidence_interval
    return float(low), float(high)


def ranking(estimates: Sequence[Estimate], mode: str) -> list[int]:
    """The indices of groups with a mean, best first; those with a run of NaN come behind others."""
    with_mean = [i for i, e in enumerate(estimates) if e.mean is not None]
    sign = 1 if mode == "min" else -1
    return sorted(with_mean, key=lambda i: (bool(estimates[i].nan), sign * estimates[i].mean))


def mode_of(metric: str, asked: str | None) -> str | None:
    """Whether less ("min") or more ("max") of a metric is better; None where nobody knows."""
    if asked is not None:
        return asked
    name = metric.partition("/")[2]
    if _LESS_IS_BETTER.match(name):
        return MODES[0]
    return MODES[1] if _MORE_IS_BETTER.match(name) else None


def needed_mode(metric: str, asked: str | None) -> str:
    """As `mode_of`.

    Raises:
      UserError: nobody knows.
    """
    mode = mode_of(metric, asked)
    if mode is None:
        raise UserError(f"--metric={metric}: say --mode=min if less of it is better, or --mode=max")
    return mode


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
    """A value of a config on one line."""
    if isinstance(value, str) and value.isprintable() and value.strip() == value != "":
        return value
    return json.dumps(value, ensure_ascii=False)


def _furthest(runs: Sequence[RunRecord]) -> list[RunRecord]:
    """One run of each config: the one that came furthest."""
    by_config: dict[str, RunRecord] = {}
    for run in runs:
        identity = json.dumps(run.config, sort_keys=True)
        other = by_config.setdefault(identity, run)
        if _progress(run) > _progress(other):
            by_config[identity] = run
    return [*by_config.values()]


def _progress(run: RunRecord) -> tuple[bool, int]:
    return run.state.kind == "done", run.state.step


def _identity(config: dict[str, Any], key: str) -> str | None:
    """Of a value; True, 1 and 1.0 are three, though equal."""
    return json.dumps(config[key], sort_keys=True) if key in config else None


def _order(settings: dict[str, Any], key: str) -> tuple:
    """Absent ones first, then numbers, then all else as text."""
    if key not in settings:
        return (0,)
    value = settings[key]
    if type(value) in (int, float):
        return (1, value)
    return (2, natural(shown(value)))
