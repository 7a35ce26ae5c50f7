"""Intervals of shares and means, at 95 %.

Dimension key: N observations, R resamples
"""

import math
from collections.abc import Sequence

import numpy as np

Interval = tuple[float, float]
_Z = 1.959963984540054  # The normal distribution's quantile at 0.975.
RESAMPLES = 1000  # Of a bootstrap.


def wilson(count: int, total: int) -> Interval | None:
    """Bounds a share (Wilson 1927, p. 209); None of nothing.

    8 of 10 give 0.490 and 0.943.
    """
    if not total:
        return None
    share, z2 = count / total, _Z**2 / total
    middle = (share + z2 / 2) / (1 + z2)
    margin = _Z * math.sqrt(share * (1 - share) / total + z2 / (4 * total)) / (1 + z2)
    return max(0.0, middle - margin), min(1.0, middle + margin)


def bootstrap_mean(values_N: np.ndarray, seed: int) -> Interval | None:
    """Bounds a mean by the percentiles of means of resamples (Efron 1979); None of nothing."""
    N = len(values_N)
    if not N:
        return None
    indices_RN = np.random.default_rng(seed).integers(N, size=(RESAMPLES, N))
    return percentiles(np.asarray(values_N, float)[indices_RN].mean(axis=1))


def percentiles(values_R: np.ndarray) -> Interval:
    """Gives the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def difference(
    first: float, first_bounds: Interval, second: float, second_bounds: Interval
) -> Interval:
    """Bounds the difference of two independent shares by their own bounds.

    Newcombe 1998, method 10.
    """
    (low, high), (other_low, other_high) = first_bounds, second_bounds
    middle = first - second
    return (
        middle - math.hypot(first - low, other_high - second),
        middle + math.hypot(high - first, second - other_low),
    )


def widest(of_pairs: Sequence[Interval]) -> Interval:
    """Bounds the largest of absolute differences, from bounds of the signed ones.

    (-0.1, 0.3) alone gives 0 and 0.3: there may be none. A bootstrap of absolute differences would
    never say so.
    """
    absolute = [(max(low, -high, 0.0), max(high, -low)) for low, high in of_pairs]
    return max(low for low, _ in absolute), max(high for _, high in absolute)
