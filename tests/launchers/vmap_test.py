"""Runs that are trained as one program, beside the same runs alone."""

import json
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import pretrain
from experiments.launchers import vmap
from experiments.sweeps import plan as plan_lib
from experiments.sweeps import vmapped_runs
from lm.errors import UserError
from lm.run.status import state_of
from lm.train import loop
from lm.train import vmapped as stacking

DEBUG = "configs/quickstart.py:debug"
OVERRIDES = [
    {"seed": 1, "optimizer.peak_lr": 1e-2},
    {
        "seed": 2,
        "optimizer.peak_lr": 3e-3,
        "optimizer.weight_decay": 0.0,
        "optimizer.b1": 0.8,
        "optimizer.b2": 0.999,
        "optimizer.eps": 1e-6,
    },
    {"seed": 1, "optimizer.peak_lr": 2e-3},
]


@pytest.fixture(scope="module")
def plan(corpus, tmp_path_factory):
    """(overrides, folder, changes of the base) -> runs with dropout, micro-batches and muP."""
    pairs = tmp_path_factory.mktemp("pairs") / "pairs.csv"
    pairs.write_text("sent_more,sent_less,bias_type\nHe is kind.,She is kind.,gender\n")

    def make(overrides, folder, optimizer="adamw", **changes):
        base = {
            "tokenizer.vocab_size": 512,
            "model.vocab_size": 512,
            "model.num_layers": 1,
            "model.dropout": 0.1,
            "model.mup_model_dim": 4,
            "model.mup_num_heads": 1,
            "model.mup_head_dim": 4,
            "model.mup_mlp_dim": 16,
            "data.source": "text",
            "data.train": corpus["train"],
            "data.validation": corpus["validation"],
            "data.seq_len": 32,
            "train.accumulate_steps": 2,
            "optimizer.ema_decay": 0.5,
            "eval.corpora.few.source": "text",
            "eval.corpora.few.validation": corpus["validation"].replace("*", "0"),
            "eval.corpora.own.source": "text",
            "eval.corpora.own.validation": corpus["validation"],
            "eval.fairness.pairs": str(pairs),
            "eval.sample_tokens": 0,
            "eval.compressors": False,
            "eval.every_steps": 1,
            "checkpoint.every_steps": 1,
            "checkpoint.keep_last": 4,
        } | {key.replace("__", "."): value for key, value in changes.items()}
        base = plan_lib.Base(f"configs/quickstart.py:debug,optimizer={optimizer}", base)
        return plan_lib.plan(base, overrides, folder)

    return make


@pytest.fixture(scope="module")
def together(plan, tmp_path_factory):
    """Three runs, trained to their ends as one program."""
    folder = tmp_path_factory.mktemp("together")
    runs = plan(OVERRIDES, folder)
    assert vmap.run(runs, folder, max_members=0) == 0
    return runs


def logged(run):
    """Every metric by step and name, but those of the clock."""
    lines = (run.workdir / "metrics.jsonl").read_text().splitlines()
    timed = ("second", "mfu", "data_wait", "memory")
    return {
        (line["step"], name): value
        for line in map(json.loads, lines)
        for name, value in line.items()
        if not any(word in name for word in timed)
    }


def assert_same(a, b):
    """Two runs have the same folders: every metric, and every array of the last checkpoint."""
    ours, theirs = logged(a), logged(b)
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        of_sums = key[1].endswith("/difference")  # Of two numbers that are much larger.
        assert ours[key] == pytest.approx(value, rel=1e-5, abs=1e-5 * of_sums), key
    for name in ("config.json", "tokenizer"):
        assert (a.workdir / name).exists()
    steps = lambda run: sorted(p.name for p in (run.workdir / "checkpoints").iterdir())
    assert steps(a) == steps(b)
    last = steps(b)[-1]
    with ocp.PyTreeCheckpointer() as checkpointer:
        x, y = (checkpointer.restore(r.workdir / "checkpoints" / last / "state") for r in (a, b))
    assert jax.tree.structure(x) == jax.tree.structure(y)
    for (path, theirs), ours in zip(
        jax.tree_util.tree_flatten_with_path(y)[0], jax.tree.leaves(x), strict=True
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if name.endswith("key/bias"):  # No softmax depends on it: what it learns is rounding.
            continue
        difference = np.linalg.norm(np.subtract(ours, theirs, dtype=np.float64))
        assert difference <= 1e-5 * np.linalg.norm(theirs), name


def test_a_member_is_what_its_run_is_alone(together, plan, tmp_path):
    (alone,) = plan(OVERRIDES[1:2], tmp_path)

    assert pretrain.run(alone.config, alone.workdir) == 0

    assert_same(together[1], alone)
    found = logged(together[1])
    for step in range(1, 5):
        assert (step, "train/loss") in found
        own, few = found[step, "eval/loss"], found[step, "eval/few/loss"]
        assert found[step, "eval/own/loss"] == own != few
        assert found[step, "eval/macro/loss"] == (own + few) / 2
        assert (step, "eval/pairs/difference") in found


@pytest.mark.parametrize(
    ("optimizer", "own"),
    [
        ("muon", {"optimizer.beta": 0.8, "optimizer.b2": 0.99, "optimizer.weight_decay": 0.0}),
        ("lion", {"optimizer.b1": 0.8, "optimizer.weight_decay": 0.2}),
    ],
)
def test_a_member_of_another_optimizer_is_what_its_run_is_alone(
    plan, tmp_path, monkeypatch, optimizer, own
):
    if optimizer == "lion":  # As on an accelerator.
        monkeypatch.setattr(stacking, "is_in_turn", lambda mesh: False)
    overrides = [{"seed": 1}, {"seed": 2, "optimizer.peak_lr": 3e-3} | own]
    changes = dict(optimizer=optimizer, optimizer__ema_decay=0.0)
    runs = plan(overrides, tmp_path / "together", **changes)
    (alone,) = plan(overrides[1:], tmp_path / "alone", **changes)

    assert vmap.run(runs, tmp_path / "together", max_members=0) == 0
    assert pretrain.run(alone.config, alone.workdir) == 0

    assert_same(runs[1], alone)


def test_members_differ_in_what_they_are_given(together):
    rates = [logged(run)[2, "train/learning_rate"] for run in together]
    losses = [logged(run)[3, "train/loss"] for run in together]

    assert len(set(rates)) == len(set(losses)) == 3


def test_stopped_members_go_on_alone_and_together_from_their_own_steps(
    together, plan, tmp_path, monkeypatch
):
    runs = plan(OVERRIDES, tmp_path)
    original = loop.fit
    stop_at_two = lambda *args, **more: original(
        *args, **more | {"stop_requested": lambda step: step == 2}
    )
    monkeypatch.setattr(loop, "fit", stop_at_two)
    assert vmap.run(runs, tmp_path, max_members=0) == 75
    monkeypatch.undo()
    assert [state_of(run.workdir).kind for run in runs] == ["stopped"] * 3

    assert pretrain.run(runs[0].config, runs[0].workdir) == 0
    before = (runs[0].workdir / "metrics.jsonl").read_text()
    shutil.rmtree(runs[1].workdir / "checkpoints" / "2")
    assert vmap.run(runs, tmp_path, max_members=0) == 0

    assert (runs[0].workdir / "metrics.jsonl").read_text() == before
    for run, whole in zip(runs, together, strict=True):
        ours, theirs = logged(run), logged(whole)
        for step in range(1, 5):
            for name in ("train/loss", "eval/loss"):
                assert ours[step, name] == pytest.approx(theirs[step, name], rel=1e-5)
        assert (run.workdir / "provenance.json").read_text().count('"command"') == 2


def test_a_loss_that_is_not_finite_is_that_member_s_alone(together, plan, tmp_path, capsys):
    overrides = [OVERRIDES[0], OVERRIDES[1], {"seed": 1, "optimizer.peak_lr": 1e38}]
    runs = plan(overrides, tmp_path, train__max_skipped=2)

    assert vmap.run(runs, tmp_path, max_members=0) == 1

    for run, whole in zip(runs[:2], together, strict=False):
        assert state_of(run.workdir).kind == "done"
        assert logged(run)[4, "train/loss"] == logged(whole)[4, "train/loss"]
    assert state_of(runs[2].workdir).kind == "failed"
    skipped = (runs[2].workdir / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in skipped] == [2, 3]
    assert "stopped at step 3: loss or gradient in 2 steps" in capsys.readouterr().out


def test_a_member_that_gets_no_better_ends_and_the_others_go_on(plan, tmp_path):
    overrides = [*OVERRIDES[:2], {"seed": 1, "optimizer.peak_lr": 0.0}]
    settings = dict(train__patience=1, checkpoint__best_metric="eval/loss")
    runs = plan(overrides, tmp_path, **settings)

    assert vmap.run(runs, tmp_path, max_members=0) == 0

    states = [state_of(run.workdir) for run in runs]
    assert [(state.kind, state.step) for state in states] == [("done", 4), ("done", 4), ("done", 2)]
    log = (tmp_path / "logs" / f"{runs[2].name}.log").read_text()
    assert "stopped early at step 2: eval/loss was best at step 1" in log


def test_runs_are_grouped_by_their_programs(plan):
    overrides = [
        {"seed": 1, "model.mlp_dim": 64},
        {"seed": 2, "model.mlp_dim": 32},
        {"seed": 3, "optimizer.weight_decay": 0.5, "model.mlp_dim": 64},
        {"seed": 4, "optimizer.clip_norm": 0.0, "model.mlp_dim": 64},
    ]
    runs = plan(overrides, pathlib.Path("none"))

    groups = vmapped_runs.grouped(runs, 0)

    assert [[run.config.seed for run in group] for group in groups] == [[1, 3], [2], [4]]
    assert vmapped_runs.differing(groups[0]) == ["seed", "optimizer.weight_decay"]
    text = vmap.plan(runs, pathlib.Path("none"), max_members=1)
    assert text.startswith(
        "4 programs, one after the other: the runs differ in model.mlp_dim, optimizer.clip_norm; "
        "max_members=1"
    )


def test_runs_in_epochs_are_planned_before_any_device_is_asked_for(plan, tmp_path):
    runs = plan(OVERRIDES[:2], tmp_path, train__num_steps=0, train__num_epochs=0.01)
    code = (
        "import jax, pathlib\nfrom experiments.sweeps import plan\n"
        "from experiments.launchers import vmap\n"
        f"base = plan.Base({DEBUG!r}, {{'train.num_steps': 0, 'train.num_epochs': 0.01}})\n"
        "vmap.plan(plan.plan(base, [{}], pathlib.Path('none')), pathlib.Path(), max_members=0)\n"
        "jax.config.update('jax_num_cpu_devices', 2)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    assert vmap.run(runs, tmp_path, max_members=0) == 0


@pytest.mark.parametrize(
    ("filename", "changes", "message"),
    [
        ("configs/classify.py:debug", {}, "experiment='finetune'"),
        ("configs/quickstart.py", {"parallel.strategy": "pmap"}, "needs parallel.strategy=jit"),
        ("configs/quickstart.py", {"parallel.tensor": 2}, "parallel.tensor=2 cuts them"),
        ("configs/quickstart.py", {"data.batch_size_per_device": 2}, "set data.batch_size"),
        ("configs/quickstart.py", {"train.patience": 2}, "train.patience=2 waits for"),
    ],
)
def test_what_cannot_be_one_program_is_refused(filename, changes, message, tmp_path):
    runs = plan_lib.plan(plan_lib.Base(filename, changes), [{"seed": 1}], tmp_path)

    for act in (vmap.plan, vmap.run):  # The first one before any config is written.
        with pytest.raises(UserError, match=message):
            act(runs, tmp_path, max_members=0)
    assert not list(tmp_path.iterdir())
