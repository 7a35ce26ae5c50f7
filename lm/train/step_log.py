"""Turns each step's metrics into what is logged: rates, running counts, skipped steps."""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator

from lm.costs import flops
from lm.errors import UserError
from lm.train import schedules
from lm.train.monitor import StepMonitor


@dataclasses.dataclass(eq=False)
class StepLog:
    """Collects every step's metrics and writes them every n steps."""

    write: Callable[[int, dict[str, float]], None]  # Takes the scalars of a logged step.
    on_skip: Callable[[int, dict[str, float]], None]  # Takes those of a skipped step.
    _: dataclasses.KW_ONLY
    every_steps: int  # How often to write; the last step is always written.
    num_steps: int
    max_skipped: int  # Skipped steps in a row after which the run stops.
    num_tokens: int  # Seen so far; at first, before the first step that will be reported.
    flops_per_token: float  # For model FLOPs utilisation.
    peak_flops: float | None  # Of all devices together; None where no peak is known.
    schedule: schedules.Schedule
    monitor: StepMonitor  # Is told how long each step took; what it saw is written too.

    def __post_init__(self):
        self._rate = schedules.on_host(self.schedule)
        self._skipped_in_row = self._num_skipped = 0
        self._paused_seconds = 0.0
        # Seconds of training, and tokens seen by then, when something was last written.
        self._marks = collections.deque([(self._seconds(), self.num_tokens)])
        self._last_seconds = self._seconds()

    def __call__(self, step: int, metrics: dict[str, float]) -> None:
        """Takes the metrics of one finished step; steps come in order.

        Raises UserError where too many steps in a row were not finite.
        """
        self.num_tokens += int(metrics["num_tokens"])
        now_seconds = self._seconds()
        self.monitor.step_took(now_seconds - self._last_seconds)
        self._last_seconds = now_seconds
        self._count_skipped(step, metrics)
        if step % self.every_steps == 0 or step == self.num_steps:
            with self.monitor.paused():
                self.write(step, self._scalars(step, metrics))
            self._num_skipped = 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Keeps the time spent inside (evaluation, checkpoints) out of that of training."""
        start_seconds = time.perf_counter()
        with self.monitor.paused():
            yield
        self._paused_seconds += time.perf_counter() - start_seconds

    def _seconds(self) -> float:
        return time.perf_counter() - self._paused_seconds

    def _tokens_per_second(self) -> float:
        now_seconds = self._seconds()
        # Since the last writing, or over the last second where that is longer.
        while len(self._marks) > 1 and now_seconds - self._marks[1][0] >= 1:
            self._marks.popleft()
        then_seconds, tokens = self._marks[0]
        self._marks.append((now_seconds, self.num_tokens))
        return (self.num_tokens - tokens) / (now_seconds - then_seconds)

    def _scalars(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        tokens_per_second = self._tokens_per_second()
        mfu = float("nan")  # Written as null: no peak is known for this device.
        if self.peak_flops is not None:
            mfu = flops.mfu(tokens_per_second, self.flops_per_token, self.peak_flops)
        return {
            "train/loss": metrics["loss"],
            "train/grad_norm": metrics["grad_norm"],
            "train/learning_rate": self._rate(step - 1),  # Schedules count from 0.
            "train/tokens": self.num_tokens,
            "train/skipped": self._num_skipped,
            "train/tokens_per_second": tokens_per_second,
            "train/mfu": mfu,
            **self.monitor.scalars(),
        }

    def _count_skipped(self, step: int, metrics: dict[str, float]) -> None:
        if not metrics["skipped"]:
            self._skipped_in_row = 0
            return
        self._num_skipped += 1
        self._skipped_in_row += 1
        self.on_skip(step, metrics)
        if self._skipped_in_row >= self.max_skipped:
            raise UserError(
                f"stopped at step {step}: loss or gradient in {self._skipped_in_row} steps "
                "in a row was not finite (train.max_skipped); the parameters precede them. "
                "Lower optimizer.peak_lr, or look at the rows named in skipped.jsonl"
            )
