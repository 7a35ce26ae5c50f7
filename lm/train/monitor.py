"""What a run does besides its arithmetic: it waits for data, compiles, and fills memory.

Traces of a few steps for XProf, too.
"""

import contextlib
import pathlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
from absl import logging
from jax.tree_util import keystr, tree_flatten_with_path

_FIRST_STEPS = 10  # Of a start: what is compiled and waited for in these is no surprise.
_MOST_WAITING = 0.02  # Of the time, above which a run is told so,
_LEAST_SECONDS = 10.0  # once it has trained for so long.
_MOST_SECONDS = 600.0  # Then the history is halved, so that a slow disk still shows after hours.


class StepMonitor:
    """Measures what a run waits for and compiles; a context manager, which costs no waiting.

    Warns, once for each cause, of a run that waits for data and of a step that is compiled anew
    after the first ones.
    """

    def __init__(self):
        self.compile_seconds = 0.0
        self._num_compiled, self._num_batches = 0, 0
        self._warned: set[str] = set()
        self._last_batch: Any = None
        self._step_seconds: list[float] = []  # Of each step since the last record.
        self._waited_seconds = 0.0  # For data, since the last record.
        # Since the first steps; halved now and then, so that what is recent weighs more.
        self._late_seconds = self._late_waited_seconds = 0.0

    def __enter__(self) -> "StepMonitor":
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note_compilation)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Passes batches on, measures the wait for each, and notes what compiles in between."""
        while True:
            start_seconds = time.perf_counter()
            try:
                batch = next(batches)
            except StopIteration:
                return
            seconds = time.perf_counter() - start_seconds
            self._num_batches += 1
            self._waited_seconds += seconds
            if self._num_batches > _FIRST_STEPS:
                self._late_waited_seconds += seconds
            before = self._num_compiled
            yield batch
            # Reached when the next batch is asked for: the step of this one was dispatched.
            if self._num_compiled > before and self._num_batches > _FIRST_STEPS:
                self._warn("compiled", _why_compiled(_shapes(self._last_batch), _shapes(batch)))
            self._last_batch = batch

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Ignores what is compiled inside: an evaluation, a checkpoint, what is logged."""
        before = self._num_compiled
        yield
        self._num_compiled = before

    def step_took(self, seconds: float) -> None:
        """Takes the seconds from the end of one step to the end of the next."""
        self._step_seconds.append(seconds)
        if self._num_batches <= _FIRST_STEPS:
            return
        self._late_seconds += seconds
        if self._late_seconds < _LEAST_SECONDS:
            return
        share = self._late_waited_seconds / self._late_seconds
        if share > _MOST_WAITING:
            self._warn(
                "waited",
                f"{share:.1%} of the time goes into waiting for data, more than "
                f"{_MOST_WAITING:.0%}: leave more cores to the threads that read it, or put "
                "LM_CACHE on a faster disk",
            )
        if self._late_seconds > _MOST_SECONDS:
            self._late_seconds /= 2  # Both, so that their ratio stays what it is.
            self._late_waited_seconds /= 2

    def scalars(self) -> dict[str, float]:
        """Returns what was measured since the last call, by metric name; NaN where unknown.

        Seconds of a step: the median and the longest; share of them spent waiting for data;
        seconds of compilation so far; bytes on the fullest device, now and at most so far.
        """
        steps, self._step_seconds = self._step_seconds or [float("nan")], []
        waited, self._waited_seconds = self._waited_seconds, 0.0
        total = sum(steps)
        return {
            "train/step_seconds": statistics.median(steps),  # A mean would follow one stall.
            "train/step_seconds_max": max(steps),
            "train/data_wait": waited / total if total else float("nan"),
            "train/compile_seconds": self.compile_seconds,
            "train/memory_bytes": _memory("bytes_in_use"),
            "train/peak_memory_bytes": _memory("peak_bytes_in_use"),
        }

    def _note_compilation(self, event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):  # Tracing, lowering and XLA's own part.
            self.compile_seconds += seconds
        self._num_compiled += event == "/jax/core/compile/backend_compile_duration"

    def _warn(self, cause: str, text: str) -> None:
        if cause not in self._warned:
            logging.warning("%s", text)
            self._warned.add(cause)


def profiled(
    batches: Iterator[Any], first_step: int, folder: pathlib.Path, steps: tuple[int, int] | None
) -> Iterator[Any]:
    """Passes batches on, and traces some of their steps; to be closed where it is not used up.

    Args:
      batches: of `first_step` and after.
      first_step: counted from 1.
      folder: for `xprof --logdir`.
      steps: the first and the last to trace, or None.
    """
    with contextlib.ExitStack() as trace:
        for step, batch in enumerate(batches, start=first_step):
            if steps and step == steps[0]:
                trace.callback(print, f"profile written to {folder}", flush=True)
                trace.enter_context(jax.profiler.trace(str(folder)))
            yield batch
            # Reached when the next batch is asked for. By then the loop has dispatched this step
            # and fetched the metrics of the one before, which is thus whole.
            if steps and step == steps[1] + 1:
                trace.close()


def _shapes(batch: Any) -> dict[str, str]:
    flat, _ = tree_flatten_with_path(batch)
    return {
        keystr(path, simple=True, separator="."): f"{x.dtype} {' x '.join(map(str, x.shape))}"
        for path, x in flat
    }


def _why_compiled(before: dict[str, str], now: dict[str, str]) -> str:
    changed = [name for name in now if now[name] != before.get(name)]
    if not changed:
        return "a step was compiled anew, though its batch has the shapes of the one before"
    name = changed[0]
    return (
        f"a step was compiled anew: {name} {before.get(name)} -> {now[name]}; each new shape costs "
        "this once, and in fine-tuning a larger data.multiple makes fewer of them"
    )


def _memory(name: str) -> float:
    """Returns a statistic of the fullest device of this process; NaN where none has it, as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [s[name] for s in stats if s is not None and name in s]
    return float(max(known)) if known else float("nan")
