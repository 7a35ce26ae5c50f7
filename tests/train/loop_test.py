import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from lm.errors import UserError
from lm.train import loop
from lm.train.monitor import StepMonitor
from lm.train.step import TrainState
from lm.train.step_log import StepLog


def fit(num_steps, *, from_step=0, hooks=(), stop=lambda step: False):
    """Runs the loop on a counter; returns what happened, in order."""
    events = []

    def step_fn(state, batch):
        events.append(("dispatch", int(state.step) + 1, batch))
        return state.replace(step=state.step + 1), {"loss": jnp.float32(batch)}

    state = loop.fit(
        TrainState(jnp.int32(from_step), {}, ()),
        step_fn,
        iter(range(100 + from_step, 200)),
        num_steps=num_steps,
        report=lambda step, metrics: events.append(("report", step, metrics["loss"])),
        hooks=[loop.Hook(n, lambda s, _, n=n: events.append(("hook", s, n))) for n in hooks],
        stop_requested=stop,
        say=lambda line: events.append(("say", line.partition(" in ")[0])),
    )
    return int(state.step), events


def test_metrics_are_fetched_after_the_next_step_was_dispatched():
    step, events = fit(3)

    assert step == 3
    assert [e[:2] for e in events] == [
        ("say", "compiling step 1"),
        ("dispatch", 1),
        ("say", "compiled step 1"),
        ("dispatch", 2),
        ("report", 1),
        ("dispatch", 3),
        ("report", 2),
        ("report", 3),
    ]


def test_a_hook_runs_on_its_steps_and_the_last_with_all_before_it_reported():
    _, events = fit(5, hooks=[2])

    hooks = [i for i, event in enumerate(events) if event[0] == "hook"]
    assert [events[i][1] for i in hooks] == [2, 4, 5]
    for i in hooks:
        reported = [event[1] for event in events[:i] if event[0] == "report"]
        assert reported == list(range(1, events[i][1] + 1))


def test_a_hook_of_zero_steps_runs_at_the_end_only():
    _, events = fit(3, hooks=[0])

    assert [event[1] for event in events if event[0] == "hook"] == [3]


def test_a_loop_goes_on_from_the_step_of_its_state():
    step, events = fit(5, from_step=3)

    assert step == 5
    assert [e for e in events if e[0] == "dispatch"] == [("dispatch", 4, 103), ("dispatch", 5, 104)]


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda signum: signum.name
)
def test_a_signal_ends_the_loop_after_its_step(signum):
    before = signal.getsignal(signum)
    with loop.stop_on_signals() as stop_requested:

        def raise_at_two(step, _):
            if step == 2:
                os.kill(os.getpid(), signum)

        state = loop.fit(
            TrainState(jnp.int32(0), {}, ()),
            lambda state, _: (state.replace(step=state.step + 1), {}),
            iter(range(9)),
            num_steps=9,
            report=lambda *_: None,
            hooks=[loop.Hook(1, raise_at_two)],
            stop_requested=stop_requested,
        )

    assert int(state.step) == 2
    assert signal.getsignal(signum) == before


def make_progress(written, skipped, **changes):
    settings = dict(
        every_steps=2,
        num_steps=5,
        max_skipped=2,
        num_tokens=100,
        flops_per_token=10.0,
        peak_flops=None,
        schedule=lambda step: step / 8,
        monitor=StepMonitor(),
    )
    return StepLog(
        lambda step, scalars: written.append((step, scalars)),
        lambda step, metrics: skipped.append(step),
        **settings | changes,
    )


def metrics(skipped=0.0):
    return {"loss": 2.0, "grad_norm": 1.0, "num_tokens": 10.0, "skipped": skipped}


def test_progress_counts_tokens_and_writes_every_n_steps_and_the_last():
    written, skipped = [], []
    progress = make_progress(written, skipped)
    for step in range(1, 6):
        progress(step, metrics(skipped=step == 3))

    assert [step for step, _ in written] == [2, 4, 5]
    assert [scalars["train/tokens"] for _, scalars in written] == [120, 140, 150]
    assert [scalars["train/skipped"] for _, scalars in written] == [0, 1, 0]
    assert written[0][1]["train/learning_rate"] == 1 / 8
    assert skipped == [3]


def test_what_is_compiled_for_a_line_of_the_log_is_no_step(monkeypatch):
    warnings, written = [], []
    monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text))

    def write(step, scalars):
        written.append(jax.jit(lambda x: 2 * x)(np.ones(step)))

    with StepMonitor() as monitor:
        progress = make_progress([], [], every_steps=1, monitor=monitor)
        progress.write = write
        for step, _ in enumerate(monitor.batches({} for _ in range(20)), start=1):
            progress(step, metrics())

    assert len(written) == 20 and not warnings


def test_speed_is_that_of_a_second_or_more_of_training(monkeypatch):
    clock, written = [100.0], []
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    progress = make_progress(written, [], every_steps=1)

    def step_after(seconds, step):
        clock[0] += seconds
        progress(step, metrics())

    step_after(5.0, 1)
    step_after(0.0, 2)  # Was ready at once: the two together took five seconds.
    with progress.paused():
        clock[0] += 50.0
    step_after(2.5, 3)

    assert [scalars["train/tokens_per_second"] for _, scalars in written] == [2.0, 4.0, 4.0]
    assert [scalars["train/step_seconds"] for _, scalars in written] == [5.0, 0.0, 2.5]


def test_progress_stops_after_too_many_skipped_steps_in_a_row():
    progress = make_progress([], [])
    progress(1, metrics(1.0))
    progress(2, metrics())
    progress(3, metrics(1.0))

    with pytest.raises(UserError, match="stopped at step 4"):
        progress(4, metrics(1.0))
