"""Traces for XProf of a few steps."""

import pathlib
from collections.abc import Iterator
from typing import Any

import jax


class Profiler:
    """Traces from the first to the last of some steps; does nothing without steps.

    Args:
      folder: for `xprof --logdir`.
      steps: (first, last), counted from 1, or None.
    """

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None):
        self._folder, self._steps = folder, steps
        self._tracing = False

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_) -> None:
        if self._tracing:
            self._stop()

    def watch(self, batches: Iterator[Any], first_step: int) -> Iterator[Any]:
        """Passes on the batches of `first_step` and after; starts and stops between them."""
        for step, batch in enumerate(batches, start=first_step):
            if self._steps and step == self._steps[0]:
                jax.profiler.start_trace(str(self._folder))
                self._tracing = True
            yield batch
            # Reached when the next batch is asked for. By then the loop has dispatched this step
            # and fetched the metrics of the one before, which is thus whole.
            if self._tracing and step == self._steps[1] + 1:
                self._stop()

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self._tracing = False
        print(f"profile written to {self._folder}", flush=True)
