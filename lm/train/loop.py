"""The host loop: the one place that counts steps and calls side effects."""

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm.system import interrupts
from lm.train.step import Metrics, StepFn, TrainState

# Counts over all runs of this process, since JAX may choose to stop behind the last step of one.
_TIMES_ASKED = itertools.count(1)
_OTHERS = (signal.SIGINT, signal.SIGHUP)


class Hook(NamedTuple):
    """Takes the state after steps n, 2n, 3n, ... and after the last (0: only then)."""

    every_steps: int
    call: Callable[[int, TrainState], None]

    def is_due(self, step: int, num_steps: int) -> bool:
        return step == num_steps or (self.every_steps > 0 and step % self.every_steps == 0)


# From here to the model it is five calls, which Python makes while `step_fn` is traced:
#   1. `step`, of `make_step` in language_model.py: rows -> batch; this is what is jitted.
#   2. `train_step`, in step.py: gradients -> update.
#   3. `summed_gradients`, in step.py: micro-batches, each through `jax.grad` of its inner `loss`.
#   4. `loss_fn`, of `make_loss_fn` in language_model.py: logits -> sums.
#   5. `model.apply`, as of models/gpt2.py.
# Fine-tuning has a `step` of its own in experiments/finetune.py, and its task's loss for 4 and 5. A
# mesh of several devices wraps 1 in `with_mesh`, and under `fsdp` 4 in `constrain_batch_sharding`.
def fit(
    state: TrainState,
    step_fn: StepFn,
    batches: Iterator[Any],
    *,
    num_steps: int,
    report: Callable[[int, dict[str, np.ndarray]], None],
    hooks: Sequence[Hook],
    stop_requested: Callable[[int], bool],
    say: Callable[[str], None] = lambda line: None,
) -> TrainState:
    """Trains from `state.step` up to `num_steps`, or until a stop is requested.

    Args:
      state: donated to `step_fn`.
      step_fn: the compiled train step, with its key.
      batches: yields the batch of each step in turn, the first being that of `state.step`; on the
        mesh already.
      num_steps: the step to end at.
      report: gets every step's metrics in order, those of step t once step t + 1 was dispatched, so
        that a device never waits for the host. At most two steps are in flight.
      hooks: called in order, with everything reported up to their step.
      stop_requested: asked after each step, with its number.
      say: told when the first step begins to be compiled, and how long that took.
    """
    first_step = int(state.step) + 1
    pending: tuple[int, Metrics] | None = None

    def flush():
        nonlocal pending
        if pending is not None:
            step, metrics = pending
            report(step, jax.device_get(metrics))  # The one place where the host waits for devices.
            pending = None

    for step in range(first_step, num_steps + 1):
        batch = next(batches)
        if step == first_step:
            say(f"compiling step {step}")
            start_seconds = time.perf_counter()
        state, metrics = step_fn(state, batch)  # Dispatched; the old state is donated.
        if step == first_step:
            say(f"compiled step {step} in {time.perf_counter() - start_seconds:.1f} s")
        flush()  # The step before, while this one runs.
        pending = (step, metrics)
        for hook in hooks:
            if hook.is_due(step, num_steps):
                flush()
                hook.call(step, state)
        if stop_requested(step):
            break
    flush()
    return state


@contextlib.contextmanager
def stop_on_signals() -> Iterator[Callable[[int], bool]]:
    """Yields a function of the step: is this where a signal tells to stop?

    SIGTERM, SIGHUP or ctrl-C; asked after every step. A second one kills as usual. With several
    processes, a signal to any of them stops them all at the same step, which JAX finds for them.
    """
    if jax.process_count() > 1:
        # JAX listens to SIGTERM alone.
        with interrupts.handled(lambda *_: os.kill(os.getpid(), signal.SIGTERM), _OTHERS):
            yield lambda step: multihost_utils.reached_preemption_sync_point(next(_TIMES_ASKED))
        return
    received: list[int] = []  # A list: appending is safe inside a handler.

    def note(signum, _):
        received.append(signum)
        signal.signal(signum, previous[signum])  # So that a second one kills.

    with interrupts.handled(note) as previous:
        yield lambda step: bool(received)
