"""Compares what a classifier does with groups of examples: shares, and how far they are apart.

The definitions are those of fairlearn, but what divides by nothing is None with a reason.

Dimension key: N examples, C counts (of right and wrong, positive and negative), R resamples
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm.metrics import intervals
from lm.metrics.intervals import Interval

SMALL = 30  # Groups of fewer examples are flagged.
_TP, _FN, _FP, _TN = range(4)
# Of shares, the counts that are counted, and those that they are counted among.
_SHARES = {
    "selection_rate": ((_TP, _FP), (_TP, _FN, _FP, _TN)),
    "tpr": ((_TP,), (_TP, _FN)),
    "fpr": ((_FP,), (_FP, _TN)),
    "precision": ((_TP,), (_TP, _FP)),
}
METRICS = (*_SHARES, "f1")
_NOTHING = {  # Why a metric of a group is not defined.
    "selection_rate": "has no example",
    "tpr": "has no positive example",
    "fpr": "has no negative example",
    "precision": "has no example that is predicted positive",
    "f1": "has no positive example, and none that is predicted so",
}


def compare(
    gold_N: np.ndarray, predicted_N: np.ndarray, groups: Sequence[str], seed: int
) -> dict[str, Any]:
    """Measures each group, and how far apart groups are.

    Args:
      gold_N: whether each example is positive.
      predicted_N: whether it is predicted so.
      groups: of each example, N.
      seed: of the bootstrap, which F1 gets its interval by.

    Returns:
      "by_group": of each group its size, whether that is `SMALL`, and `METRICS`; "between_groups":
      largest difference and ratio of each metric, demographic parity and equalised odds (Hardt et
      al. 2016). A measure has "value" and "interval", or None for both and a "reason".
    """
    names = sorted(set(groups))
    places = np.array([names.index(group) for group in groups])
    kind_N = np.where(gold_N, np.where(predicted_N, _TP, _FN), np.where(predicted_N, _FP, _TN))
    counts = {name: np.bincount(kind_N[places == i], minlength=4) for i, name in enumerate(names)}
    resampled = {name: _f1(_resampled(counts[name], seed + i)) for i, name in enumerate(names)}
    by_group = {}
    for name, counts_C in counts.items():
        num = int(counts_C.sum())
        sizes = {"num": num, "num_positive": int(counts_C[[_TP, _FN]].sum()), "small": num < SMALL}
        measures = {metric: _share(counts_C, metric, name) for metric in _SHARES}
        measures["f1"] = _f1_measure(counts_C, resampled[name], name)
        by_group[name] = sizes | measures
    return {"by_group": by_group, "between_groups": _between(by_group, resampled)}


def _resampled(counts_C: np.ndarray, seed: int) -> np.ndarray:
    """Draws a group's examples anew: R x C."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(counts_C.sum(), counts_C / counts_C.sum(), size=intervals.RESAMPLES)


def _share(counts_C: np.ndarray, metric: str, group: str) -> dict[str, Any]:
    part, whole = (int(counts_C[list(kinds)].sum()) for kinds in _SHARES[metric])
    if not whole:
        return _undefined(f"group {group!r} {_NOTHING[metric]}")
    return {"value": part / whole, "interval": intervals.wilson(part, whole)}


def _f1(counts_RC: np.ndarray) -> np.ndarray:
    """Computes F1 of each, R; NaN where nothing is positive or predicted so."""
    right_R, wrong_R = 2 * counts_RC[:, _TP], counts_RC[:, _FP] + counts_RC[:, _FN]
    return np.where(right_R + wrong_R, right_R / np.maximum(right_R + wrong_R, 1), np.nan)


def _f1_measure(counts_C: np.ndarray, resampled_R: np.ndarray, group: str) -> dict[str, Any]:
    value = float(_f1(counts_C[None])[0])
    if np.isnan(value):
        return _undefined(f"group {group!r} {_NOTHING['f1']}")
    return {"value": value, "interval": _percentiles(resampled_R)}


def _percentiles(values_R: np.ndarray) -> Interval:
    return intervals.percentiles(values_R[~np.isnan(values_R)])


def _between(
    by_group: Mapping[str, Mapping[str, Any]], resampled: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    measures: dict[str, Any] = {}
    for metric in METRICS:
        of_groups = {name: group[metric] for name, group in by_group.items()}
        measures[f"{metric}_difference"] = _difference(metric, of_groups, resampled)
        measures[f"{metric}_ratio"] = _ratio(of_groups)
    for kind, worst in (("difference", max), ("ratio", min)):
        measures[f"demographic_parity_{kind}"] = measures[f"selection_rate_{kind}"]
        both = [measures[f"{metric}_{kind}"] for metric in ("tpr", "fpr")]
        measures[f"equalized_odds_{kind}"] = _worst(both, worst)
    return measures


def _difference(
    metric: str, of_groups: Mapping[str, Any], resampled: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    if reason := _missing(of_groups):
        return _undefined(reason)
    values = [measure["value"] for measure in of_groups.values()]
    bounds = []
    for one, other in itertools.combinations(of_groups, 2):
        if metric == "f1":
            bounds.append(_percentiles(resampled[one] - resampled[other]))
            continue
        first, second = ((of_groups[x]["value"], of_groups[x]["interval"]) for x in (one, other))
        bounds.append(intervals.difference(*first, *second))
    return {"value": max(values) - min(values), "interval": intervals.widest(bounds)}


def _ratio(of_groups: Mapping[str, Any]) -> dict[str, Any]:
    if reason := _missing(of_groups):
        return _undefined(reason)
    values = [measure["value"] for measure in of_groups.values()]
    if not max(values):
        return _undefined("it is 0 in every group")
    return {"value": min(values) / max(values), "interval": None}


def _missing(of_groups: Mapping[str, Any]) -> str:
    """Says why groups cannot be compared; "" where they can."""
    if len(of_groups) < 2:
        return f"there is one group, {next(iter(of_groups))!r}"
    return next((x["reason"] for x in of_groups.values() if x["value"] is None), "")


def _worst(both: Sequence[Mapping[str, Any]], worst: Any) -> dict[str, Any]:
    if reason := next((x["reason"] for x in both if x["value"] is None), ""):
        return _undefined(reason)
    value = worst(x["value"] for x in both)
    bounds = [x["interval"] for x in both]
    return {"value": value, "interval": intervals.widest(bounds) if all(bounds) else None}


def _undefined(reason: str) -> dict[str, Any]:
    return {"value": None, "interval": None, "reason": reason}
