"""Which evaluation was the best, and whether to wait for a better one."""

import dataclasses
import math
from collections.abc import Sequence

MODES = ("min", "max")


def ranked(values: Sequence[tuple[int, float]], mode: str) -> list[int]:
    """Sorts steps by their values, the best first; NaN comes last.

    Args:
      values: (step, value) of each evaluation.
      mode: "min" where less is better, "max" where more is.
    """

    def badness(pair):
        step, value = pair  # Of two equal values, the earlier step is the better one.
        return (math.inf if math.isnan(value) else value if mode == "min" else -value, step)

    return [step for step, _ in sorted(values, key=badness)]


@dataclasses.dataclass
class EarlyStopping:
    """Decides from the evaluations of a run when it is over (Prechelt 1998)."""

    values: list[tuple[int, float]]  # (step, value) of each evaluation so far; grows.
    _: dataclasses.KW_ONLY
    mode: str  # See `ranked`.
    patience: int  # Evaluations in a row without a better one after which it is over; 0: never.

    def add(self, step: int, value: float) -> None:
        self.values.append((step, value))

    def best_step(self) -> int:
        """Returns the step of the best evaluation so far."""
        return ranked(self.values, self.mode)[0]

    def is_over(self) -> bool:
        """Whether the best is `patience` evaluations ago."""
        if not self.patience or not self.values:
            return False
        best = self.best_step()
        return sum(step > best for step, _ in self.values) >= self.patience
