"""What is shown of a curation, in numbers: of report.json alone, and before anything is drawn."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from lm.curation import ledger as ledger_lib
from lm.curation.ledger import Count, Ledger

_MOST_LOST = 0.5
_LEAST_SPAN = 0.05  # Of an axis, that one bar is not all of it.
_STARTS = (1.0, 1.3, 1.6, 2.0, 2.5, 3.2, 4.0, 5.0, 6.3, 8.0)  # Of bars, in each decade.


class Step(NamedTuple):
    """A step of a waterfall: what a reason took away, of what was left, and what it leaves.

    stage, reason: "" of the steps that take nothing: the first, what was read, and the last, what
    was kept.
    """

    stage: str
    reason: str
    taken: Count
    left: Count


class Share(NamedTuple):
    """What was read of something, and what was kept of it.

    largest: of a language, the input that most of its kept bytes are from; of an input, the
    language of most of them; "" where nothing is kept. largest_bytes: how many these are.
    """

    name: str
    read: Count
    kept: Count
    largest: str
    largest_bytes: int

    @property
    def loses_most(self) -> bool:
        """Whether more than half is dropped, of documents or of bytes."""
        return any(k < r * _MOST_LOST for k, r in zip(self.kept, self.read, strict=True))


class Bar(NamedTuple):
    """Documents whose measure lies between two values, and how many of them are kept."""

    low: float
    high: float
    documents: int
    kept: int


class Histogram(NamedTuple):
    """How often a measure had which values, in a language.

    least, most: what is kept, if there is a threshold; num_dropped: documents that this measure
    dropped.
    """

    language: str
    measure: str
    bars: Sequence[Bar]
    least: float | None
    most: float | None
    num_dropped: int


def stages(report: Mapping[str, Any]) -> list[str]:
    """Gives the stages in the order in which documents met them."""
    dropping = {row["stage"] for row in report["ledger"]} - {""}
    return list(dict.fromkeys([row["stage"] for row in report["waterfall"]] + sorted(dropping)))


def waterfall(ledger: Ledger, stages: Sequence[str]) -> list[Step]:
    """Follows what was read through the stages, reason by reason, to what was kept."""
    by_fate = ledger_lib.by(ledger, ("stage", "reason"))
    left = _sum(by_fate.values())
    steps = [Step("", "", Count(), left)]
    dropped = {fate: count for fate, count in by_fate.items() if fate[0]}
    order = lambda fate: (stages.index(fate[0]), -dropped[fate].documents, fate)
    for stage, reason in sorted(dropped, key=order):
        taken = dropped[stage, reason]
        left = Count(left.documents - taken.documents, left.num_bytes - taken.num_bytes)
        steps.append(Step(stage, reason, taken, left))
    assert left == by_fate.get(("", ""), Count()), "what is left is what was kept"
    return [*steps, Step("", "", Count(), left)]


def only(ledger: Ledger, **fields: str) -> Ledger:
    """Gives the part of a ledger that has some fields, as language="zh"."""
    matches = lambda cell: all(getattr(cell, name) == fields[name] for name in fields)
    return Ledger({cell: count for cell, count in ledger.counts.items() if matches(cell)})


def shares(ledger: Ledger, by: str) -> list[Share]:
    """Gives what was kept of each language or source, those of the most bytes first."""
    other = {"language": "source", "source": "language"}[by]
    read, kept = (
        {name: count for (name,), count in ledger_lib.by(part, (by,)).items()}
        for part in (ledger, only(ledger, stage=""))
    )
    largest: dict[str, tuple[int, str]] = {name: (0, "") for name in read}
    for (name, of), count in sorted(ledger_lib.by(only(ledger, stage=""), (by, other)).items()):
        largest[name] = max(largest[name], (count.num_bytes, of))
    found = [
        Share(name, count, kept.get(name, Count()), largest[name][1], largest[name][0])
        for name, count in read.items()
    ]
    return sorted(found, key=lambda one: (-one.read.num_bytes, one.name))


def losses(ledger: Ledger) -> list[tuple[str, str, Count]]:
    """Gives what readers could not read: (source, reason, how much), the most bytes first."""
    by_reason = ledger_lib.by(only(ledger, stage="read"), ("source", "reason"))
    rows = [(source, reason, count) for (source, reason), count in by_reason.items()]
    return sorted(rows, key=lambda row: (row[0], -row[2].num_bytes, row[1]))


def histograms(report: Mapping[str, Any]) -> dict[str, list[Histogram]]:
    """Gives the histograms of each language, that of the most documents first."""
    ledger, thresholds = ledger_lib.of_rows(report["ledger"]), report["thresholds"]
    dropped = ledger_lib.by(ledger, ("language", "reason"))
    counts: dict[tuple[str, str], dict[tuple[float, float], list[int]]] = {}
    for row in report["measures"]:
        of = counts.setdefault((row["language"], row["measure"]), {})
        for value, number in row["values"]:
            count = of.setdefault(bounds(value), [0, 0])
            count[0] += number
            count[1] += number if row["fate"] == "kept" else 0
    found: dict[str, list[Histogram]] = {}
    for (language, measure), of in counts.items():
        known = {**thresholds.get("*", {}), **thresholds.get(language, {})}
        names = [f"{measure}_low", f"{measure}_high"]
        names += ["near_duplicate"] if measure == "similarity" else []
        num_dropped = sum(dropped.get((language, name), Count()).documents for name in names)
        bars = [Bar(*edges, *count) for edges, count in sorted(of.items())]
        limits = known.get(measure, (None, None))
        found.setdefault(language, []).append(
            Histogram(language, measure, bars, *limits, num_dropped=num_dropped)
        )
    size = lambda one: sum(bar.documents for bar in one.bars)
    return dict(sorted(found.items(), key=lambda item: (-max(map(size, item[1])), item[0])))


def bounds(value: float) -> tuple[float, float]:
    """Gives the bar that a value of two digits stands in: 0.573 -> (0.565, 0.575), 17 -> (16, 20).

    Up to 1 bars are 0.01 wide and have their value in the middle, above there are ten to a decade.
    """
    if value <= 1:
        middle = round(value * 100)
        return max(middle - 0.5, 0.0) / 100, min(middle + 0.5, 100.0) / 100
    power = 10.0 ** math.floor(math.log10(value) + 1e-9)
    digits = round(value / power, 1)
    index = max(i for i, start in enumerate(_STARTS) if start <= digits)
    return _STARTS[index] * power, (*_STARTS, 10.0)[index + 1] * power


def place(value: float) -> float:
    """Gives where a value stands on the axis of measures: as it is up to 1, its logarithm above."""
    return value if value <= 1 else 1 + math.log10(value)


def domain(histogram: Histogram) -> tuple[float, float]:
    """Gives the least and the most value of an axis that has all bins and both thresholds."""
    values = [edge for bar in histogram.bars for edge in (bar.low, bar.high)]
    values += [bound for bound in (histogram.least, histogram.most) if bound is not None]
    return min(values), max(*values, min(values) + _LEAST_SPAN)


def ticks(low: float, high: float) -> list[float]:
    """Gives round values on the axis of measures, about five."""
    found: list[float] = []
    span = place(high) - place(low)
    if 1 - low > 0.2 * span:  # Else there is no room for labels.
        end = min(high, 1.0)
        target = (end - low) / (4 if high <= 1 else 2)
        power = 10 ** math.floor(math.log10(target))
        step = next(power * n for n in (1, 2, 5, 10) if power * n >= target * 0.8)
        first = math.ceil(low / step - 1e-9)
        found += [round(n * step, 10) for n in range(first, math.floor(end / step + 1e-9) + 1)]
    if high > 1:
        num_decades = math.log10(high) - max(0.0, math.log10(max(low, 1e-9)))
        digits = (1, 2, 5) if num_decades < 1.7 else (1,)
        every = max(1, round(num_decades / 5))
        first = math.floor(math.log10(max(low, 1.0)))
        powers = range(first, math.floor(math.log10(high)) + 1)
        powers = [power for power in powers if power % every == 0]
        found += [
            float(d * 10**p) for p in powers for d in digits if max(low, 1) <= d * 10**p <= high
        ]
    return sorted(set(found))


def percent(part: int, whole: int) -> str:
    """Gives a share; never says 0 or 100 % of what is neither."""
    share = 100 * part / whole if whole else 0.0
    shown = "<0.1" if 0 < share < 0.05 else ">99.9" if 99.95 <= share < 100 else f"{share:.1f}"
    return f"{shown}\N{NO-BREAK SPACE}%"


def _sum(counts: Any) -> Count:
    return Count(*map(sum, zip(Count(), *counts, strict=True)))
