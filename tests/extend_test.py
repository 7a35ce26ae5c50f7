"""A run that is given more steps than it was made with."""

import numpy as np
import pytest

from configs import classify, quickstart
from experiments import finetune, training
from lm.errors import UserError
from lm.run import workdir
from lm.run.status import State, state_of
from lm.train import loop
from lm.train.schedules import linear
from tests import run_folders
from tests.finetune_test import files, make_config, params_of, read  # noqa: F401
from tests.training_test import experiment  # noqa: F401

CONFIG = {"seed": 0, "train": {"num_steps": 10, "num_epochs": 0.0}, "parallel": {"data": 1}}


def longer(num_steps=20, num_epochs=0.0, **more):
    return CONFIG | {"train": {"num_steps": num_steps, "num_epochs": num_epochs}} | more


@pytest.fixture
def made(tmp_path):
    with workdir.opened(tmp_path / "run", CONFIG, data_hash="abc"):
        pass
    return tmp_path / "run"


def test_only_the_length_may_change_and_only_grow(made):
    before = (made / "config.json").read_text()
    refused = {
        "num_steps=10, and 9 is not more": longer(9),
        "num_epochs=0.0, and 2.0 is not more": longer(20, 2.0),
        "num_steps=10, and 0 is not more": longer(0, 2.0),
        "seed is 0 there, 1 here": longer(seed=1),
    }
    for message, config in refused.items():
        with (
            pytest.raises(UserError, match=message),
            workdir.opened(made, config, data_hash="abc", extend=True),
        ):
            pass
    with (
        pytest.raises(UserError, match="other data"),
        workdir.opened(made, longer(), data_hash="other", extend=True),
    ):
        pass
    with pytest.raises(UserError, match=r"num_steps is 10 there, 20 here.* --extend"):
        workdir.check(made, longer())
    with pytest.raises(UserError, match="holds no run to extend"):
        workdir.check(made.parent / "none", longer(), extend=True)
    assert (made / "config.json").read_text() == before
    assert len(workdir.starts(made)) == 1


def test_a_refusal_names_what_may_not_change(made):
    other = longer(optimizer={"peak_lr": 1.0})
    with pytest.raises(UserError, match=r"config: optimizer.peak_lr is \S+ there, \S+ here;"):
        workdir.check(made, other, extend=True)


def test_the_folder_tells_of_its_new_length(made):
    for parallel in ({"data": 4}, {"data": 1}):  # The second time it is that long already.
        config = longer(parallel=parallel)
        with workdir.opened(made, config, data_hash="abc", extend=True):
            pass

    assert workdir.load_config(made) == longer()
    changes = [start.get("extended_from") for start in workdir.starts(made)]
    assert changes == [None, {"train.num_steps": 10, "train.num_epochs": 0.0}, None]
    workdir.check(made, longer())
    with pytest.raises(UserError, match="num_steps is 20 there, 10 here"):
        workdir.check(made, CONFIG)


@pytest.mark.parametrize("done", [True, False])
def test_a_run_of_seeds_is_done_again_once_each_seed_is(tmp_path, done):
    for seed in range(2):
        records = [{"step": 4, "run/done": 1}, {"step": 4, "run/num_steps": 8}]
        run_folders.write(tmp_path / f"seed-{seed}", CONFIG, records, num_steps=4, done=done)
    (tmp_path / "seeds.json").write_text("{}")

    assert (state_of(tmp_path).kind == "done") == done


def constant(files, num_steps):  # noqa: F811
    config = make_config(files, "one label", **{"train.num_steps": num_steps})
    config.optimizer = classify.get_config("debug,optimizer=adamw,schedule=constant").optimizer
    config.optimizer.update(warmup_steps=3, warmup_share=0.0)
    config.model.dropout = 0.1
    config.log.every_steps = 1
    return config.lock()


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert finetune.run(constant(files, 8), folder) == 0
    return folder


def rates_of(folder):
    lines = read(folder / "metrics.jsonl")
    name = "train/learning_rate"
    return {line["step"]: line[name] for line in lines if name in line}


def test_at_a_constant_rate_it_becomes_the_longer_run_to_the_bit(files, whole, tmp_path):  # noqa: F811
    run = tmp_path / "run"
    assert finetune.run(constant(files, 4), run) == 0

    assert finetune.run(constant(files, 8), run, extend=True) == 0

    expected, found = params_of(whole), params_of(run)
    for path in expected:
        np.testing.assert_array_equal(found[path], expected[path])
    assert rates_of(run) == rates_of(whole)
    assert (run / "result.json").read_text() == (whole / "result.json").read_text()


def test_a_rate_that_falls_follows_the_new_length_from_there_on(experiment, tmp_path, monkeypatch):  # noqa: F811
    def train(num_steps, name, code=0, extend=False):
        config = quickstart.get_config()
        config.train.num_steps, config.log.every_steps = num_steps, 1
        falling = linear(peak_lr=1.0, num_steps=num_steps, final_lr_ratio=0.0)
        experiment.schedule, experiment.extend = falling, extend
        experiment.config, experiment.workdir = config, tmp_path / name
        requested = config.to_dict()
        found = training.train(experiment, requested_config=requested)
        assert found == code
        return rates_of(tmp_path / name)

    short, whole = train(4, "run"), train(8, "whole")
    assert state_of(tmp_path / "run") == State("done", 4, 4, 0)
    original = loop.fit
    stop = {"stop_requested": lambda step: step == 6}
    monkeypatch.setattr(loop, "fit", lambda *args, **how: original(*args, **how | stop))
    train(8, "run", code=75, extend=True)
    monkeypatch.undo()
    stopped = state_of(tmp_path / "run")
    assert stopped.kind != "done" and (stopped.step, stopped.num_steps) == (6, 8)
    extended = train(8, "run")  # It is that long by now.

    assert extended == short | {step: whole[step] for step in range(5, 9)}
    assert extended[5] > extended[4]  # It rises where the two meet.
    assert state_of(tmp_path / "run") == State("done", 8, 8, 0)
