import inspect
import itertools
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import linen as nn

from configs import quickstart
from experiments import pretrain, training
from lm.train import loop
from lm.train.step import TrainState


@jax.jit
def step_fn(state, batch):
    loss = jnp.mean(batch["tokens_BL"])
    metrics = {"loss": loss, "grad_norm": 0.0, "num_tokens": 8.0, "skipped": 0.0}
    return state.replace(step=state.step + 1), metrics


class Widening:
    """Batches of 2 x 4, and from step 12 on of 2 x 8."""

    def rows_at(self, step):
        return np.arange(2)

    def iterate(self, first_step, end_step, shard, num_shards):
        for step in range(first_step, end_step):
            yield {"tokens_BL": np.zeros((2, 4 if step < 12 else 8), np.float32)}


class Counting:
    """An `experiment.Experiment` that trains nothing."""

    schedule = staticmethod(lambda step: 0.1)
    abstract = jax.eval_shape(lambda: TrainState(jnp.int32(0), {"w_D": jnp.zeros(2)}, ()))
    batches, shard = Widening(), (0, 1)
    data_hash, flops_per_token, kept = "", 1.0, {}
    command, extend = None, False

    def save_tokenizer(self, folder):
        folder.mkdir(exist_ok=True)

    def progress(self, step):
        return {}

    def describe(self):
        pass

    def first_state(self):
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), self.abstract)

    def compiled_step(self):
        return step_fn, lambda batch: batch

    def evaluate(self, step, params):
        return {"eval/loss": 1.0}

    def sample(self, params):
        return None

    def finish(self, checkpoints, state):
        pass


@pytest.fixture
def experiment():
    return Counting()


def test_a_run_logs_and_warns_of_what_holds_it_up(experiment, tmp_path, monkeypatch, capsys):
    warnings, clock = [], itertools.count(step=0.25)  # A quarter of a second from look to look.
    monkeypatch.setattr(logging, "warning", lambda text, *args: warnings.append(text % args))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    config = quickstart.get_config()
    config.train.num_steps, config.log.every_steps = 40, 20

    experiment.config, experiment.workdir = config, tmp_path / "run"
    assert training.train(experiment, requested_config=config.to_dict()) == 0

    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    assert lines[0] == {"step": 0, "run/num_steps": 40}
    assert lines[-1] == {"step": 40, "run/done": 1}
    first, last = (line for line in lines if "train/loss" in line)
    assert 0 < last["train/step_seconds"] <= last["train/step_seconds_max"]
    assert 0 < last["train/data_wait"] < 1
    assert 0 < first["train/compile_seconds"] <= last["train/compile_seconds"]
    assert last["train/memory_bytes"] is last["train/peak_memory_bytes"] is None  # Of CPUs.
    compiled, waited = warnings
    assert "tokens_BL float32 2 x 4 -> float32 2 x 8;" in compiled
    assert "waiting for data" in waited
    said = capsys.readouterr().out
    assert re.search(r"^compiling step 1\ncompiled step 1 in [\d.]+ s\n(.*\n)*step ", said, re.M)


class _ReachedError(Exception):
    """The step has called the model."""


def test_the_comment_above_fit_names_all_calls_from_the_loop_to_the_model(corpus, tmp_path):
    def intercept(method, args, kwargs, context):
        frames = [one.frame.f_code for one in reversed(inspect.stack())]
        ours = [c.co_qualname for c in frames if re.search("/(lm|experiments)/", c.co_filename)]
        if "fit" in ours:
            raise _ReachedError(*ours[ours.index("fit") + 1 :])
        return method(*args, **kwargs)

    config = quickstart.get_config("debug")
    config.tokenizer.vocab_size = config.model.vocab_size = 512
    config.data.update(source="text", **corpus)
    with nn.intercept_methods(intercept), pytest.raises(_ReachedError) as reached:
        pretrain.run(config, tmp_path / "run")

    called = list(reached.value.args)
    called.remove("with_mesh.<locals>.call")  # There are two devices.
    called.remove("summed_gradients.<locals>.loss")  # The comment has it with the function around.
    said = re.findall(r"(?m)^#   \d\. `([\w.]+)`", pathlib.Path(loop.__file__).read_text())
    assert [name.rpartition(".")[2] for name in called] + ["model.apply"] == said
