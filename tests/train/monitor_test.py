import contextlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging

from lm.train.monitor import StepMonitor


@pytest.fixture
def warnings(monkeypatch):
    found = []
    monkeypatch.setattr(logging, "warning", lambda text, *args: found.append(text % args))
    return found


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def run(observation, lengths, step_fn=lambda state, batch: (state, {})):
    """Steps through batches of these lengths, each watched."""
    for batch in observation.batches({"tokens_BL": np.zeros((2, n), np.int32)} for n in lengths):
        step_fn(None, batch)
        yield


def test_steps_are_summed_up_since_the_last_record():
    observation = StepMonitor()
    for seconds in (1.0, 2.0, 9.0):
        observation.step_took(seconds)

    scalars = observation.scalars()

    assert (scalars["train/step_seconds"], scalars["train/step_seconds_max"]) == (2.0, 9.0)
    assert math.isnan(observation.scalars()["train/step_seconds"])


def test_waiting_for_data_is_a_share_of_the_time(clock):
    observation = StepMonitor()

    def slow():
        for _ in range(4):
            clock[0] += 0.5
            yield {}

    for _ in observation.batches(slow()):
        clock[0] += 1.5
        observation.step_took(2.0)

    assert observation.scalars()["train/data_wait"] == 0.25


@pytest.mark.parametrize(("wait_seconds", "is_warned"), [(0.01, False), (0.05, True)])
def test_a_run_that_waits_for_data_is_told_so_once(clock, warnings, wait_seconds, is_warned):
    observation = StepMonitor()

    def batches():
        for _ in range(60):
            clock[0] += wait_seconds
            yield {}

    for _ in observation.batches(batches()):
        observation.step_took(1.0)

    assert [text[:4] for text in warnings] == ["5.0%"] * is_warned
    assert all("LM_CACHE" in text and "\n" not in text for text in warnings)


def test_good_hours_do_not_hide_that_data_became_slow(clock, warnings):
    observation = StepMonitor()

    def batches():
        for step in range(7260):
            clock[0] += 0.0 if step < 7200 else 0.5
            yield {}

    for _ in observation.batches(batches()):
        observation.step_took(1.0)

    assert len(warnings) == 1


def test_waiting_for_the_first_batches_is_no_reason_to_warn(clock, warnings):
    observation = StepMonitor()

    def batches():
        for step in range(60):
            clock[0] += 5.0 if step < 3 else 0.0
            yield {}

    for _ in observation.batches(batches()):
        observation.step_took(1.0)

    assert not warnings


@pytest.mark.parametrize(
    ("lengths", "text"),
    [
        ([4] * 20, None),
        ([4, 8] * 10, None),
        ([4] * 12 + [8] * 3 + [6], "tokens_BL int32 2 x 4 -> int32 2 x 8;"),
    ],
)
def test_what_is_compiled_after_the_first_steps_is_named_once(warnings, lengths, text):
    step_fn = jax.jit(lambda state, batch: (state, {"loss": jnp.sum(batch["tokens_BL"])}))
    with StepMonitor() as observation:
        for _ in run(observation, lengths, step_fn):
            pass

    assert len(warnings) == (text is not None)
    assert text is None or text in warnings[0]
    assert observation.compile_seconds > 0


@pytest.mark.parametrize("paused", [True, False])
def test_what_is_compiled_in_a_pause_is_no_step(warnings, paused):
    with StepMonitor() as observation:
        for step, _ in enumerate(observation.batches({} for _ in range(20))):
            with observation.paused() if paused else contextlib.nullcontext():
                jax.jit(lambda x: 2 * x)(np.zeros(step + 1))

    assert len(warnings) == (not paused)
    assert observation.compile_seconds > 0


def test_memory_is_that_of_the_fullest_device_or_unknown(monkeypatch):
    class Device:
        def __init__(self, num_bytes):
            self._num_bytes = num_bytes

        def memory_stats(self):
            return {"bytes_in_use": self._num_bytes, "peak_bytes_in_use": 2 * self._num_bytes}

    assert math.isnan(StepMonitor().scalars()["train/memory_bytes"])
    monkeypatch.setattr(jax, "local_devices", lambda: [Device(3), Device(5)])
    scalars = StepMonitor().scalars()
    assert (scalars["train/memory_bytes"], scalars["train/peak_memory_bytes"]) == (5.0, 10.0)
