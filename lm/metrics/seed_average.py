"""The mean of several runs that differ in their seed."""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Estimate(NamedTuple):
    """A mean over runs and its standard error, which one run does not have."""

    mean: float
    standard_error: float | None


def over_runs(values: Sequence[float]) -> Estimate:
    """Averages a metric over at least one run; gives s / sqrt(n), too, where s divides by n - 1.

    1.0 and 2.0 give 1.5 and 0.5.
    """
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n))
