"""Which evaluation was the best, and whether to wait for a better one."""

import math
from collections.abc import Sequence

MODES = ("min", "max")


def ranked(values: Sequence[tuple[int, float]], mode: str) -> list[int]:
    """The steps, the one with the best value first, the earlier of two equal ones; NaN comes last.

    Args:
      values: (step, value) of each evaluation.
      mode: "min" where less is better, "max" where more is.
    """

    def badness(pair):
        step, value = pair
        return (math.inf if math.isnan(value) else value if mode == "min" else -value, step)

    return [step for step, _ in sorted(values, key=badness)]


class EarlyStopping:
    """The evaluations of a run by one metric, for early stopping (Prechelt 1998).

    Args:
      values: (step, value) of those before; continued in place.
      mode: see `ranked`.
      patience: evaluations in a row without a better one after which it is over; 0: it never is.
    """

    def __init__(self, values: Sequence[tuple[int, float]], *, mode: str, patience: int):
        self.values = [(step, value) for step, value in values]
        self._mode, self._patience = mode, patience

    def add(self, step: int, value: float) -> None:
        self.values.append((step, value))

    def best_step(self) -> int:
        """Of what was added so far."""
        return ranked(self.values, self._mode)[0]

    def is_over(self) -> bool:
        """Whether the best is `patience` evaluations ago."""
        if not self._patience or not self.values:
            return False
        since = sum(step > self.best_step() for step, _ in self.values)
        return since >= self._patience
