"""The order of a mixture: which source an example comes from, computed from its number alone.

A run is a sequence of stages with weights of their own. A stage of N examples gives each source a
whole number of them, and example i of the stage belongs to the source in whose part of range(N),
as long as its count, (i M) mod N lies. M is near N divided by the golden ratio, so that every
source comes evenly all the way (Weyl's sequence; Niederreiter 1992, section 3.1), and coprime to N,
so that the counts are exact at the end of the stage.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_GOLDEN = 0x9E3779B97F4A7C15  # 2**64 divided by the golden ratio.
_NUM_CANDIDATES = 32


@dataclasses.dataclass(frozen=True)
class Stage:
    """Consecutive examples of a run, so many of each source."""

    counts: tuple[int, ...]

    @functools.cached_property
    def num_examples(self) -> int:
        return sum(self.counts)

    @functools.cached_property
    def multiplier(self) -> int:
        return multiplier(self.num_examples)

    @functools.cached_property
    def ends(self) -> list[int]:
        """Where the part of each source in range(num_examples) ends."""
        return list(itertools.accumulate(self.counts))

    def sources(self, start: int, end: int) -> np.ndarray:
        """Gives the index of the source of each example from `start` until `end`."""
        # Python's integers: the product may need more than 64 bits.
        values = [i * self.multiplier % self.num_examples for i in range(start, end)]
        return np.searchsorted(np.array(self.ends, np.int64), values, side="right")

    def counts_before(self, end: int) -> list[int]:
        """Counts the first `end` examples by source."""
        below = [_num_below(end, self.multiplier, self.num_examples, at) for at in self.ends]
        return [b - a for a, b in itertools.pairwise([0, *below])]


class Mixture:
    """The sources of a run's examples, in order.

    `counts` of stages [(2, 1), (1, 1)] of sources "a" and "b" give

        example   0  1  2  3  4
        source    a  b  a  a  b
        ordinal   0  0  1  2  1     # How many examples of its source come before it.
    """

    def __init__(self, names: Sequence[str], counts: Sequence[Sequence[int]]):
        self.names = tuple(names)
        self.stages = tuple(Stage(tuple(map(int, of_stage))) for of_stage in counts)
        sizes = (stage.num_examples for stage in self.stages)
        self._starts = list(itertools.accumulate(sizes, initial=0))

    @property
    def num_examples(self) -> int:
        return self._starts[-1]

    def counts(self, num_examples: int) -> np.ndarray:
        """Counts the first examples of the run by source."""
        totals = np.zeros(len(self.names), np.int64)
        for stage, start in zip(self.stages, self._starts, strict=False):
            here = min(num_examples - start, stage.num_examples)
            if here > 0:
                totals += stage.counts_before(here)
        return totals

    def draw(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Gives the source of each example from `start` until `end`, and its ordinal there."""
        assert 0 <= start <= end <= self.num_examples, (start, end, self.num_examples)
        sources = np.empty(end - start, np.int64)
        for stage, first in zip(self.stages, self._starts, strict=False):
            here = slice(max(start - first, 0), min(end - first, stage.num_examples))
            if here.start < here.stop:
                at = slice(here.start + first - start, here.stop + first - start)
                sources[at] = stage.sources(here.start, here.stop)
        return sources, self.counts(start)[sources] + _rank_among_equals(sources)


def _rank_among_equals(values: np.ndarray) -> np.ndarray:
    """[7, 4, 7, 7, 4] -> [0, 0, 1, 2, 1]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    ranks = np.empty_like(values)
    ranks[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
    return ranks


def multiplier(size: int) -> int:
    """Gives a number near `size` divided by the golden ratio, coprime to `size`.

    Of some such numbers it is the one whose multiples modulo `size` are spread most evenly.
    """
    middle, best = size * _GOLDEN >> 64, (math.inf, 1)
    coprime = (
        at
        for distance in range(size)
        for at in dict.fromkeys((middle - distance, middle + distance))
        if 0 < at < size and math.gcd(at, size) == 1
    )
    for candidate in itertools.islice(coprime, _NUM_CANDIDATES):
        # The discrepancy is bounded by the partial quotients of the fraction (Niederreiter 1992,
        # theorem 3.4), of which one alone may be large where the fraction ends.
        largest, a, b = 0, size, candidate
        while b:
            largest, a, b = max(largest, a // b), b, a % b
        best = min(best, (largest, candidate))
    return best[1]


def _num_below(num: int, factor: int, modulus: int, bound: int) -> int:
    """Counts the i in range(num) with (i * factor) mod modulus < bound, 0 <= bound <= modulus."""
    # floor((x + modulus - bound) / modulus) is floor(x / modulus), and one more where
    # x mod modulus >= bound.
    more = _floor_sum(num, modulus, factor, modulus - bound)
    return num - (more - _floor_sum(num, modulus, factor, 0))


def _floor_sum(num: int, modulus: int, factor: int, offset: int) -> int:
    """Sums floor((factor * i + offset) / modulus) over i in range(num).

    In O(log modulus), as Euclid's algorithm goes (Graham, Knuth, Patashnik 1994, section 3.5).
    """
    total = 0
    while True:
        total += num * (num - 1) // 2 * (factor // modulus) + num * (offset // modulus)
        factor, offset = factor % modulus, offset % modulus
        last = factor * num + offset
        if last < modulus:
            return total
        num, offset = divmod(last, modulus)
        modulus, factor = factor, modulus


def whole_counts(weights: Sequence[float | Fraction], total: int) -> tuple[int, ...]:
    """Divides `total` into whole numbers by weight, by largest remainders.

    whole_counts([0.5, 0.3, 0.2], 8) is (4, 2, 2). Of equal remainders the first gets the one more.
    """
    exact = [Fraction(weight) for weight in weights]
    parts = [total * weight / sum(exact) for weight in exact]
    counts = [math.floor(part) for part in parts]
    by_remainder = sorted(range(len(parts)), key=lambda i: (counts[i] - parts[i], i))
    for i in by_remainder[: total - sum(counts)]:
        counts[i] += 1
    return tuple(counts)
