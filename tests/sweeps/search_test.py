"""Searches whose trials are real processes that do next to nothing."""

import hashlib
import math
import os
import signal

import ml_collections
import optuna
import pytest

from configs import sweeping
from experiments.sweeps import process_pool, search
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run.status import state_of
from tests.launchers.local_test import FAKE

SPACE = {"rate": sweeping.log_uniform(0.01, 1.0), "width": [1, 2]}
HERE = dict(num_parallel=1, devices_per_run=0)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(process_pool, "PROGRAM", FAKE)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def spec(**changes):
    return search.Search(**sweeping.search(SPACE, **(dict(num_trials=3, seed=1) | changes)))


def loss_of(rate=0.1, width=1):
    return math.log10(rate / 0.1) ** 2 + width


def maker(folder, do="train", loss=loss_of, every_steps=1, experiment="pretrain"):
    """overrides -> their run; `do` may be a function of the overrides."""

    def make_run(overrides):
        if unknown := overrides.keys() - SPACE.keys():
            raise UserError(f"{min(unknown)} is no key")
        name = hashlib.sha256(repr(sorted(overrides.items())).encode()).hexdigest()[:10]
        arguments = dict(workdir=folder / name, steps=2, loss=loss(**overrides))
        arguments["do"] = do(overrides) if callable(do) else do
        values = {"experiment": experiment, "eval": {"every_steps": every_steps}}
        config = ml_collections.ConfigDict(values)
        flags = tuple(f"--{key}={value}" for key, value in arguments.items())
        return PlannedRun(name, folder / name, overrides, config, flags)

    return make_run


def trials_of(folder):
    backend = optuna.storages.journal.JournalFileBackend(str(folder / search.JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    return optuna.load_study(study_name="search", storage=storage).trials


def drawn(folder):
    return [trial.params for trial in trials_of(folder)]


def states(folder):
    return [trial.state.name for trial in trials_of(folder)]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(process_pool, "PROGRAM", FAKE)
        patch.setenv("JAX_PLATFORMS", "cpu")
        assert search.run(spec(num_trials=13, pruner="none"), maker(folder), folder, **HERE) == 0
    return folder


def test_a_search_ends_with_the_best_of_its_trials(uninterrupted, capsys):
    capsys.readouterr()
    assert states(uninterrupted) == ["COMPLETE"] * 13
    assert len({params["rate"] for params in drawn(uninterrupted)}) == 13
    values = [trial.value for trial in trials_of(uninterrupted)]
    assert values == [pytest.approx(loss_of(**params) / 2) for params in drawn(uninterrupted)]

    again = search.run(
        spec(num_trials=13, pruner="none"), maker(uninterrupted), uninterrupted, **HERE
    )

    assert again == 0 and len(trials_of(uninterrupted)) == 13
    out = capsys.readouterr().out
    best = min(drawn(uninterrupted), key=lambda params: loss_of(**params))
    assert f"best:   eval/loss {min(values):.6g}" in out
    assert f"rate={best['rate']} width={best['width']}" in out


@pytest.mark.parametrize("num_before", [1, 11])
def test_a_search_that_was_stopped_ends_as_it_would_have(uninterrupted, tmp_path, num_before):
    stop_at = drawn(uninterrupted)[num_before]

    def do(overrides):
        if overrides == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return "wait" if overrides == stop_at else "train"

    full = spec(num_trials=13, pruner="none")
    assert search.run(full, maker(tmp_path, do), tmp_path, **HERE) == 75
    assert states(tmp_path) == ["COMPLETE"] * num_before + ["RUNNING"]

    assert search.run(full, maker(tmp_path), tmp_path, **HERE) == 0

    assert drawn(tmp_path) == drawn(uninterrupted)
    assert states(tmp_path) == ["COMPLETE"] * 13


def test_a_trial_that_is_worse_from_the_start_is_pruned_and_not_failed(tmp_path, capsys):
    best = [math.inf]

    def do(overrides):
        if len(overrides) < 2:
            return "train"  # Only a check of the bounds.
        is_worse = loss_of(**overrides) > best[0]
        best[0] = min(best[0], loss_of(**overrides))
        return "hang" if is_worse else "train"

    assert search.run(spec(num_trials=4), maker(tmp_path, do), tmp_path, **HERE) == 0

    out = capsys.readouterr().out
    values = [loss_of(**params) for params in drawn(tmp_path)]
    expected = ["COMPLETE" if v == min(values[: i + 1]) else "PRUNED" for i, v in enumerate(values)]
    assert states(tmp_path) == expected and "PRUNED" in expected
    num_pruned = expected.count("PRUNED")
    assert out.count("pruned   ") == num_pruned
    assert f"runs: {4 - num_pruned} done, {num_pruned} pruned\n" in out
    assert search.run(spec(num_trials=4), maker(tmp_path, do), tmp_path, **HERE) == 0
    assert f"runs: {4 - num_pruned} done, {num_pruned} pruned\n" in capsys.readouterr().out


def test_equal_trials_are_trained_once(tmp_path, capsys):
    only = search.Search(**sweeping.search({"width": [1, 2]}, num_trials=6, pruner="none"))

    assert search.run(only, maker(tmp_path), tmp_path, **HERE) == 0

    assert states(tmp_path) == ["COMPLETE"] * 6
    assert capsys.readouterr().out.count("start") <= 2


def test_a_trial_that_is_equal_to_a_pruned_one_is_pruned_too(tmp_path, capsys):
    only = search.Search(**sweeping.search({"width": [1, 2]}, num_trials=8, sampler="random"))
    do = lambda overrides: "hang" if overrides.get("width") == 2 else "train"  # 1 is drawn first.

    assert search.run(only, maker(tmp_path, do), tmp_path, **HERE) == 0

    ends = [(trial.params["width"], trial.state.name) for trial in trials_of(tmp_path)]
    assert [width for width, _ in ends[:2]] == [1, 2] and ends.count((2, "PRUNED")) > 1
    assert set(ends) == {(1, "COMPLETE"), (2, "PRUNED")}
    assert capsys.readouterr().out.count("start") == 2


def test_a_failing_trial_stops_no_other_and_is_made_up_for(tmp_path):
    do = lambda overrides: "fail" if overrides.get("width") == 2 else "train"
    assert search.run(spec(num_trials=4), maker(tmp_path, do), tmp_path, **HERE) == 1
    first = states(tmp_path)
    assert len(first) == 4 and 0 < first.count("FAIL") < 4

    assert search.run(spec(num_trials=4), maker(tmp_path), tmp_path, **HERE) == 0

    assert len(states(tmp_path)) == 4 + first.count("FAIL")


def test_a_loss_that_is_no_number_is_the_worst(tmp_path):
    loss = lambda width=1, rate=0.1: math.nan
    one = spec(num_trials=1, pruner="none")

    assert search.run(one, maker(tmp_path, loss=loss), tmp_path, **HERE) == 0

    assert [trial.value for trial in trials_of(tmp_path)] == [math.inf]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(space={"rat": [1]}), "rat is no key"),
        (dict(space={}), "space={} must be a dict"),
        (dict(space={"rate": []}), "no choices"),
        (dict(space={"rate": 0.1}), "rate=0.1 is no distribution"),
        (dict(space={"rate": (0.1, 0.2)}), "no distribution"),
        (dict(space={"rate": ("gauss", 0.1, 0.2)}), "no distribution"),
        (dict(space={"rate": ("uniform", 0.1, math.inf)}), "no distribution"),
        (dict(space={"rate": ("integers", 0.5, 2)}), "no distribution"),
        (dict(space={"rate": ("log_uniform", 0.0, 0.1)}), "no distribution"),
        (dict(space={"rate": [None]}), "no distribution"),
        (dict(sampler="grid"), "sampler='grid'.*tpe, random"),
        (dict(pruner="median"), "pruner='median'"),
        (dict(mode="least"), "mode='least'"),
        (dict(num_trials=0), "num_trials=0"),
        (dict(num_trials="3"), "num_trials='3'"),
        (dict(metric="eval/lose"), "metric='eval/lose'.*choose eval/loss"),
    ],
)
def test_a_search_that_cannot_work_is_refused_before_it_starts(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        given = sweeping.search(SPACE, num_trials=2) | changes
        search.run(search.Search(**given), maker(tmp_path), tmp_path / "new", **HERE)
    assert not (tmp_path / "new").exists()


def test_pruning_needs_evaluations(tmp_path):
    with pytest.raises(UserError, match="every_steps=0"):
        search.run(spec(), maker(tmp_path, every_steps=0), tmp_path / "new", **HERE)
    search.check(spec(pruner="none"), maker(tmp_path, every_steps=0))


def test_another_search_is_kept_out_of_the_folder(uninterrupted):
    for changes, key in ((dict(seed=2), "seed"), (dict(mode="max"), "mode")):
        other = spec(**(dict(num_trials=13, pruner="none") | changes))
        with pytest.raises(UserError, match=f"another search: {key}"):
            search.run(other, maker(uninterrupted), uninterrupted, **HERE)


def test_the_search_of_another_version_is_kept_out_too(tmp_path):
    assert search.run(spec(num_trials=1), maker(tmp_path), tmp_path, **HERE) == 0
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / search.JOURNAL))
    storage = optuna.storages.JournalStorage(backend)
    study = optuna.load_study(study_name="search", storage=storage)
    study.set_user_attr("search", study.user_attrs["search"] | {"warmup_trials": 5})

    with pytest.raises(UserError, match="another search: warmup_trials is 5 there, None here"):
        search.run(spec(num_trials=1), maker(tmp_path), tmp_path, **HERE)


def test_a_metric_that_a_task_never_logs_is_named_once_a_trial_has_ended(tmp_path):
    make_run = maker(tmp_path, experiment="finetune")
    with pytest.raises(UserError, match=r"metric='eval/lose'.*choose eval/loss"):
        search.run(spec(metric="eval/lose"), make_run, tmp_path, **HERE)
    (trained,) = tmp_path.glob("*/metrics.jsonl")
    assert state_of(trained.parent).kind == "done"


def test_a_search_goes_on_after_its_journal_was_cut_in_the_middle_of_a_line(tmp_path):
    assert search.run(spec(num_trials=2), maker(tmp_path), tmp_path, **HERE) == 0
    with (tmp_path / search.JOURNAL).open("a") as file:
        file.write('{"op_code": 4, "wor')

    assert search.run(spec(num_trials=4), maker(tmp_path), tmp_path, **HERE) == 0

    assert len(trials_of(tmp_path)) == 4


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"op_code": 99, "worker_id": ""}'])
def test_a_damaged_journal_is_named(tmp_path, line):
    journal = tmp_path / search.JOURNAL
    journal.write_text(f"{line}\n" * 2)

    with pytest.raises(UserError, match=rf"{search.JOURNAL} is damaged"):
        search.run(spec(), maker(tmp_path), tmp_path, **HERE)
    assert journal.read_text() == f"{line}\n" * 2


def test_a_missing_optuna_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(UserError, match="pip install optuna"):
        search.run(spec(), maker(tmp_path), tmp_path / "new", **HERE)
