"""Lays what was measured of two models side by side, as before and after a bias was mended."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from lm.metrics import intervals
from lm.metrics.intervals import Interval

_BESIDE = ("random weights", "roles swapped")  # Of neither model.


class Measure(NamedTuple):
    """Holds a value with its interval, both None where it is not defined."""

    value: float | None
    interval: Interval | None


class Compared(NamedTuple):
    """Holds a measure before and after, and the second less the first."""

    before: Measure
    after: Measure
    difference: Measure


def measures(results: Mapping[str, Any]) -> dict[str, Measure]:
    """Finds all that has an interval in the results of a fairness.json, by its place there.

    {"flips": {"value": 0.9, "interval": [0.8, 1]}} gives {"flips": Measure(0.9, (0.8, 1))}. What
    stands beside a model, such as random weights, is left out.
    """
    return dict(_walk(results, ()))


def _walk(node: Any, path: tuple[str, ...]) -> Iterator[tuple[str, Measure]]:
    if not isinstance(node, Mapping):
        return
    if "value" in node and "interval" in node:
        bounds = node["interval"]
        yield " ".join(path), Measure(node["value"], None if bounds is None else tuple(bounds))
        return
    for key, value in node.items():
        if key.startswith(_BESIDE):
            continue
        if key.endswith("_interval"):  # Of pairs, whose values stand beside.
            name = key.removesuffix("_interval")
            bounds = None if value is None else tuple(value)
            yield " ".join((*path, name)), Measure(node[name], bounds)
        yield from _walk(value, (*path, key) if key != "this model" else path)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Compared]:
    """Compares the results of two fairness.json, as far as both have the same measures.

    Differences are bounded as those of independent values (Newcombe 1998, method 10), and so too
    widely where both models were asked about the same examples; None where one is not defined.
    """
    first, second = measures(before), measures(after)
    return {
        name: Compared(first[name], second[name], _difference(first[name], second[name]))
        for name in first
        if name in second
    }


def _difference(before: Measure, after: Measure) -> Measure:
    if before.value is None or after.value is None:
        return Measure(None, None)
    bounds = None
    if before.interval is not None and after.interval is not None:
        bounds = intervals.difference(after.value, after.interval, before.value, before.interval)
    return Measure(after.value - before.value, bounds)
