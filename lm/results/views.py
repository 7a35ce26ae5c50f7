"""What is shown of runs: each as a table for people and as plain data for programs."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from lm.results.groups import (
    LEVEL,
    Estimate,
    Group,
    differences,
    estimate,
    final,
    grouped,
    mode_of,
    needed_mode,
    ranking,
    shown,
    telling,
)
from lm.results.reading import RunRecord, natural, some
from lm.results.tables import Table
from lm.run.status import KINDS

_INTERVAL = f"{LEVEL:.0%} interval"
_BETTER = {"min": "less is better", "max": "more is better"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """How runs become numbers."""

    metrics: tuple[str, ...]  # The names of those that are shown.
    at: str  # "last" or "best"; see `groups.final`.
    mode: str | None  # "min" or "max"; None for what is known of the metric.
    over: tuple[str, ...]  # Keys of the config that are averaged over.
    with_unfinished: bool  # Whether runs that are not done count.

    def estimates(self, groups: Sequence[Group], metric: str) -> list[Estimate]:
        # A last value can be had of a metric of which nobody knows what is better.
        mode = needed_mode(metric, self.mode) if self.at == "best" else None
        return [
            estimate(group, metric, at=self.at, mode=mode, with_unfinished=self.with_unfinished)
            for group in groups
        ]

    def order(self, groups: Sequence[Group], known: dict[str, list[Estimate]]) -> list[int]:
        """Ranks groups by the first metric, where it is known what is better; the rest follow."""
        first = self.metrics[0] if self.metrics else ""
        mode, ranked = mode_of(first, self.mode) if first else None, []
        if mode:  # An estimate takes thousands of resamples, so that it is not made twice.
            ranked = ranking(known.get(first) or self.estimates(groups, first), mode)
        return [*ranked, *sorted({*range(len(groups))} - {*ranked})]


def counts(runs: Sequence[RunRecord]) -> dict[str, int]:
    """Counts the runs in each state."""
    return {kind: sum(run.state.kind == kind for run in runs) for kind in KINDS}


def status(runs: Sequence[RunRecord], choice: Choice) -> tuple[Table, list[dict[str, Any]]]:
    """Makes a row of each run: its state, how far, how fast, how long silent, its last values."""
    columns = ["run", "state", "step", "tokens/s", "last line", *choice.metrics]
    rows = [
        [
            run.name,
            _state(run),
            f"{run.state.step}/{run.state.num_steps or '?'}",
            "" if run.tokens_per_second is None else f"{run.tokens_per_second:,.0f}",
            "" if run.silent_seconds is None else _ago(run.silent_seconds),
            *(_number(final(run, metric, "last", None)) for metric in choice.metrics),
        ]
        for run in runs
    ]
    data = [
        {
            "run": run.name,
            "state": run.state.kind,
            "step": run.state.step,
            "num_steps": run.state.num_steps,
            "tokens_per_second": run.tokens_per_second,
            "seconds_since_last_line": run.silent_seconds,
            "metrics": {m: _finite(final(run, m, "last", None)) for m in choice.metrics},
        }
        for run in runs
    ]
    counted = ", ".join(f"{n} {_KIND_NAMES[kind]}" for kind, n in counts(runs).items() if n)
    return Table(f"{_count(len(runs), 'run')}: {counted}", columns, rows, num_names=1), data


def results(runs: Sequence[RunRecord], choice: Choice) -> tuple[Table, list[dict[str, Any]]]:
    """Makes a row of each group: what its config has of its own, and its metrics over seeds."""
    groups = grouped(runs, choice.over)
    by_metric = {metric: choice.estimates(groups, metric) for metric in choice.metrics}
    keys = telling(groups)
    has_several = any(len(group.runs) > 1 for group in groups)  # One run has no error.
    columns = [*keys, "runs"]
    for metric in choice.metrics:
        of = f"{metric} " if len(choice.metrics) > 1 else ""
        columns += [metric, f"{of}± s.e.", of + _INTERVAL] if has_several else [metric]
    rows, data = [], []
    for i in choice.order(groups, by_metric):
        estimates = {metric: by_metric[metric][i] for metric in choice.metrics}
        names = [run.name for run in groups[i].runs]
        cells = [_setting(groups[i].settings, key) for key in keys]
        cells.append(names[0] if len(names) == 1 else f"{len(names)}: {some(names)}")
        for one in estimates.values():
            cells += _estimate_cells(one) if has_several else [_mean(one)]
        rows.append([*cells, _note(groups[i], estimates)])
        data.append(_group_data(groups[i], estimates))
    return Table(_title(choice, len(groups)), [*columns, "note"], rows, len(keys)), data


def best(runs: Sequence[RunRecord], choice: Choice) -> tuple[str, dict[str, Any]]:
    """Says which group is best by the one metric, beside the second."""
    (metric,) = choice.metrics
    mode = needed_mode(metric, choice.mode)
    groups = grouped(runs, choice.over)
    estimates = choice.estimates(groups, metric)
    ranked = ranking(estimates, mode)
    order = ranked[:2]
    # First what tells these two apart, then what tells them from the others that have the metric.
    keys = [*telling([groups[i] for i in order]), *telling([groups[i] for i in ranked])]
    data = {"metric": metric, "mode": mode, "at": choice.at, "best": None, "second": None}
    if not order:
        return f"no finished run has a finite {metric}; --unfinished counts the others", data
    lines = [f"{_title(choice, len(groups))}; {_BETTER[mode]}"]
    for rank, i in zip(("best", "second"), order, strict=False):
        lines.append(f"{rank + ':':8}{groups[i].label([*dict.fromkeys(keys)])}")
        lines.append(f"        {metric} {' '.join(filter(None, _estimate_cells(estimates[i])))}")
        lines.append(f"        {_values(estimates[i], mode)}")
        if note := _note(groups[i], {metric: estimates[i]}):
            lines.append(f"        {note}")
        data[rank] = _group_data(groups[i], {metric: estimates[i]})
    verdict, certainty = _verdict(*(estimates[i] for i in order))
    return "\n".join([*lines, verdict]), data | certainty


def compare(a: RunRecord, b: RunRecord) -> tuple[list[Table], dict[str, Any]]:
    """Says what differs between the configs of two runs, and their last values."""
    keys = differences([a.config, b.config])
    configs = [[key, *(_setting(run.config, key) for run in (a, b))] for key in keys]
    rows, metrics = [], {}
    for metric in sorted(a.series.keys() | b.series.keys(), key=natural):
        values = [final(run, metric, "last", None) for run in (a, b)]
        difference = None if None in values else values[1] - values[0]
        rows.append([metric, *map(_number, values), _number(difference)])
        metrics[metric] = [*map(_finite, values)]
    states = [
        ["state", _state(a), _state(b), ""],
        ["step", str(a.state.step), str(b.state.step), ""],
    ]
    tables = [
        Table(
            f"{_count(len(keys), 'difference')} of the configs", ["key", a.name, b.name], configs, 1
        ),
        Table("last values", ["metric", a.name, b.name, "difference"], states + rows, 1),
    ]
    data = {
        "runs": [a.name, b.name],
        "states": [a.state.kind, b.state.kind],
        "steps": [a.state.step, b.state.step],
        "config": {key: [run.config.get(key) for run in (a, b)] for key in keys},
        "metrics": metrics,
    }
    return tables, data


_KIND_NAMES = {kind: kind for kind in KINDS} | {"waiting": "never started"}


def _state(run: RunRecord) -> str:
    kind = run.state.kind
    has_ended = kind in ("stopped", "failed", "dead")
    return f"{kind} at {run.state.step}" if has_ended else _KIND_NAMES[kind]


def _ago(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if math.isnan(value):
        return "NaN"
    # "#" keeps the zeros, so that digits show how exact a number is; 1e15 and more has an exponent.
    return f"{value:,.0f}" if 1e5 <= abs(value) < 1e15 else f"{value:#.5g}".removesuffix(".")


def _mean(one: Estimate) -> str:
    return "NaN" if one.mean is None and one.nan else _number(one.mean)


def _estimate_cells(one: Estimate) -> list[str]:
    """Writes mean, standard error and interval."""
    error = "" if one.standard_error is None else f"±{one.standard_error:.2g}"
    return [_mean(one), error, " to ".join(map(_number, one.interval or ()))]


def _values(one: Estimate, mode: str) -> str:
    """Lists the runs with their values, the best first."""
    names = sorted(one.values, key=one.values.get, reverse=mode == "max")
    values = [f"{name} {_number(one.values[name])}" for name in names]
    return f"{_count(len(values), 'run')}: {', '.join(values)}"


def _count(num: int, noun: str) -> str:
    return f"{num} {noun}" if num == 1 else f"{num} {noun}s"


def _note(group: Group, estimates: dict[str, Estimate]) -> str:
    """Says which runs are not in a mean, and why."""
    notes = {}  # From what is said to the metrics that it is said of.
    for metric, one in estimates.items():
        about = {
            "not done": [name for name in one.unfinished if name not in one.values],
            "not done, yet counted": [name for name in one.unfinished if name in one.values],
            "NaN": one.nan,
            "NaN at times": one.at_times_nan,
            "without": one.missing,
        }
        text = "; ".join(f"{len(of)} {why}: {some(of)}" for why, of in about.items() if of)
        notes.setdefault(text, []).append(metric)
    if len(notes) > 1:  # Else all metrics say the same, and need no name.
        notes = {f"{', '.join(of)}: {text}": of for text, of in notes.items() if text}
    if group.copies:
        notes[f"{len(group.copies)} copied: {some(group.copies)}"] = []
    return "; ".join(filter(None, notes))


def _setting(config: dict[str, Any], key: str) -> str:
    return shown(config[key]) if key in config else "(no such key)"


def _title(choice: Choice, num_groups: int) -> str:
    who = "all runs, unfinished ones too" if choice.with_unfinished else "finished runs"
    return (
        f"{_count(num_groups, 'config')}; {choice.at} values of {who}, mean over "
        f"{', '.join(choice.over)}; intervals by percentile bootstrap"
    )


def _verdict(first: Estimate, second: Estimate | None = None) -> tuple[str, dict[str, Any]]:
    """Says how certain the order of the two is, in words and as data."""
    data = {"second_is_within_interval_of_best": None, "intervals_overlap": None}
    if second is None:
        return "there is no second config to compare with", data
    if first.interval is None:
        return "one run has no interval: more seeds would tell whether the second is worse", data
    low, high = first.interval
    # The second may have one run, so its mean is asked first: it needs no interval.
    is_within = low <= second.mean <= high
    place = "within" if is_within else "outside"
    text = f"the second's mean is {place} the {_INTERVAL} of the best"
    data["second_is_within_interval_of_best"] = is_within
    if second.interval is not None:
        overlap = low <= second.interval[1] and second.interval[0] <= high
        data["intervals_overlap"] = overlap
        text += ", and the two intervals " + ("overlap" if overlap else "do not overlap")
    may_change = is_within or data["intervals_overlap"]
    return text + (": more seeds may change the order" if may_change else ""), data


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value  # JSON knows no NaN.


def _group_data(group: Group, estimates: dict[str, Estimate]) -> dict[str, Any]:
    return {
        "settings": group.settings,
        "runs": [run.name for run in group.runs],
        "copies": group.copies,
        "metrics": {metric: dataclasses.asdict(one) for metric, one in estimates.items()},
    }
