"""From each step's metrics to what is logged: rates, running counts, skipped steps."""

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

from lm.costs import flops
from lm.errors import UserError
from lm.train.monitor import StepMonitor
from lm.train.schedules import Schedule


class StepLog:
    """Collects every step's metrics and writes them every n steps.

    Args:
      write: (step, scalars) of a logged step.
      on_skip: (step, metrics) of a step whose loss or gradient was not finite.
      every_steps: how often to write; the last step is always written.
      num_steps: the last step.
      max_skipped: skipped steps in a row after which the run stops.
      num_tokens: seen before the first step that will be reported.
      flops_per_token: for model FLOPs utilisation.
      peak_flops: of all devices together; None where no peak is known.
      schedule: learning rate by step.
      monitor: told how long each step took; what it saw is written too.
    """

    def __init__(
        self,
        write: Callable[[int, dict[str, float]], None],
        on_skip: Callable[[int, dict[str, float]], None],
        *,
        every_steps: int,
        num_steps: int,
        max_skipped: int,
        num_tokens: int,
        flops_per_token: float,
        peak_flops: float | None,
        schedule: Schedule,
        monitor: StepMonitor,
    ):
        self.num_tokens = num_tokens
        self._write, self._on_skip = write, on_skip
        self._every_steps, self._num_steps = every_steps, num_steps
        self._max_skipped, self._skipped_in_row = max_skipped, 0
        self._flops_per_token, self._peak_flops = flops_per_token, peak_flops
        self._schedule, self._monitor = schedule, monitor
        self._num_skipped, self._paused_seconds = 0, 0.0
        # Seconds of training, and tokens seen by then, when something was last written.
        self._marks = collections.deque([(self._seconds(), num_tokens)])
        self._last_seconds = self._seconds()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of one finished step; steps come in order.

        Raises:
          UserError: too many steps in a row were not finite.
        """
        self.num_tokens += int(metrics["num_tokens"])
        now_seconds = self._seconds()
        self._monitor.step_took(now_seconds - self._last_seconds)
        self._last_seconds = now_seconds
        self._count_skipped(step, metrics)
        if step % self._every_steps == 0 or step == self._num_steps:
            with self._monitor.paused():
                self._write(step, self._scalars(step, metrics))
            self._num_skipped = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Time spent inside (evaluation, checkpoints) does not count as training."""
        start_seconds = time.perf_counter()
        with self._monitor.paused():
            yield
        self._paused_seconds += time.perf_counter() - start_seconds

    def _seconds(self) -> float:
        return time.perf_counter() - self._paused_seconds

    def _tokens_per_second(self) -> float:
        """Since the last writing, or over the last second where that is longer."""
        now_seconds = self._seconds()
        while len(self._marks) > 1 and now_seconds - self._marks[1][0] >= 1:
            self._marks.popleft()
        then_seconds, tokens = self._marks[0]
        self._marks.append((now_seconds, self.num_tokens))
        return (self.num_tokens - tokens) / (now_seconds - then_seconds)

    def _scalars(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        tokens_per_second = self._tokens_per_second()
        mfu = float("nan")  # Written as null: no peak is known for this device.
        if self._peak_flops is not None:
            mfu = flops.mfu(tokens_per_second, self._flops_per_token, self._peak_flops)
        return {
            "train/loss": metrics["loss"],
            "train/grad_norm": metrics["grad_norm"],
            "train/learning_rate": float(self._schedule(step - 1)),
            "train/tokens": self.num_tokens,
            "train/skipped": self._num_skipped,
            "train/tokens_per_second": tokens_per_second,
            "train/mfu": mfu,
            **self._monitor.scalars(),
        }

    def _count_skipped(self, step: int, metrics: dict[str, float]) -> None:
        if not metrics["skipped"]:
            self._skipped_in_row = 0
            return
        self._num_skipped += 1
        self._skipped_in_row += 1
        self._on_skip(step, metrics)
        if self._skipped_in_row >= self._max_skipped:
            raise UserError(
                f"stopped at step {step}: loss or gradient in {self._skipped_in_row} steps "
                "in a row was not finite (train.max_skipped); the parameters precede them. "
                "Lower optimizer.peak_lr, or look at the rows named in skipped.jsonl"
            )
