"""What a run does besides its arithmetic: it waits for data, compiles, and fills memory."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from absl import logging
from jax.tree_util import keystr, tree_flatten_with_path

from lm.train.state import TrainState
from lm.train.step import Metrics

StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]

_FIRST_STEPS = 10  # Of a start: what is compiled and waited for in these is no surprise.
_MOST_WAITING = 0.02  # Of the time, above which a run is told so,
_LEAST_SECONDS = 10.0  # once it has trained for so long.


class Observation:
    """Watches the batches and the steps of a run from outside; nothing waits because of it.

    A context manager, which counts what JAX compiles while it is open. Warns, once for each cause,
    of a run that waits for data and of a step that is compiled anew after the first ones.
    """

    def __init__(self):
        self.compile_seconds = 0.0
        self._num_compiled, self._num_batches = 0, 0
        self._warned: set[str] = set()
        self._shapes: dict[str, str] = {}
        # Since the last record: of each step, and of waiting for data.
        self._step_seconds: list[float] = []
        self._waited_seconds = 0.0
        # After the first steps.
        self._all_seconds = self._all_waited_seconds = 0.0

    def __enter__(self) -> "Observation":
        jax.monitoring.register_event_duration_secs_listener(self._note_compilation)
        return self

    def __exit__(self, *_) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note_compilation)

    def batches(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The same batches, with a clock on the waiting for each."""
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
                self._all_waited_seconds += seconds
            yield batch

    def step_fn(self, step_fn: StepFn) -> StepFn:
        """The same function, with an eye on whether it is compiled anew."""

        def watched(state: TrainState, batch: Any) -> tuple[TrainState, Metrics]:
            before, shapes = self._num_compiled, _shapes(batch)
            result = step_fn(state, batch)
            if self._num_compiled > before and self._num_batches > _FIRST_STEPS:
                self._warn("compiled", _why_compiled(self._shapes, shapes))
            self._shapes = shapes
            return result

        return watched

    def step_took(self, seconds: float) -> None:
        """Takes the seconds from the end of one step to that of the next."""
        self._step_seconds.append(seconds)
        if self._num_batches > _FIRST_STEPS:
            self._all_seconds += seconds
        share = self._all_waited_seconds / max(self._all_seconds, _LEAST_SECONDS)
        if self._all_seconds > _LEAST_SECONDS and share > _MOST_WAITING:
            self._warn(
                "waited",
                f"{share:.0%} of the time goes into waiting for data, more than "
                f"{_MOST_WAITING:.0%}: the disk or the cores that read rows are too slow or busy",
            )

    def scalars(self) -> dict[str, float]:
        """What was seen since the last call, by the name in metrics.jsonl; NaN where unknown.

        Seconds of a step: the median and the longest; share of them spent waiting for data;
        seconds of compilation so far; bytes on the fullest device, now and at most so far.
        """
        steps, self._step_seconds = self._step_seconds or [float("nan")], []
        waited, self._waited_seconds = self._waited_seconds, 0.0
        total = sum(steps)
        return {
            "train/step_seconds": statistics.median(steps),
            "train/step_seconds_max": max(steps),
            "train/data_wait": waited / total if total else float("nan"),
            "train/compile_seconds": self.compile_seconds,
            "train/memory_bytes": _memory("bytes_in_use"),
            "train/peak_memory_bytes": _memory("peak_bytes_in_use"),
        }

    def _note_compilation(self, event: str, seconds: float, **_) -> None:
        if event.startswith("/jax/core/compile/"):
            self.compile_seconds += seconds
        self._num_compiled += event == "/jax/core/compile/backend_compile_duration"

    def _warn(self, cause: str, text: str) -> None:
        if cause not in self._warned:
            logging.warning("%s", text)
            self._warned.add(cause)


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
        f"a step was compiled anew, since {name} became {now[name]} from {before.get(name)}; each "
        "new shape costs this once (data.multiple makes them fewer)"
    )


def _memory(name: str) -> float:
    """Of the fullest device of this process; NaN where the devices do not say, as CPUs."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    known = [s[name] for s in stats if s is not None and name in s]
    return float(max(known)) if known else float("nan")
