"""Workdirs of an earlier version still resume, evaluate, generate and convert.

`old_workdirs.tar.xz` holds two runs of commit 652ba39 (JAX 0.10.2), of four steps each, as a kill
after their second step would have left the checkpoints, and the texts that they were trained on:

    launch.py PRETRAINED --workdir=runs/pretrained
    launch.py CLASSIFIED --workdir=runs/classified

in the folder that holds both. Their metrics.jsonl still has what step 4 gave.
"""

import json
import pathlib
import tarfile

import pytest

from benchmarks import option_runs

ROOT = pathlib.Path(__file__).parent.parent
PRETRAINED = [
    f"--config={ROOT}/configs/quickstart.py:tokenizer=bytes,optimizer=adamw",
    "--config.data.source=text",
    "--config.data.train=text/train.txt",
    "--config.data.validation=text/validation.txt",
    "--config.data.seq_len=32",
    "--config.data.batch_size=4",
    "--config.train.num_steps=4",
    "--config.model.num_layers=1",
    "--config.model.model_dim=8",
    "--config.model.num_heads=2",
    "--config.model.head_dim=4",
    "--config.model.mlp_dim=16",
    "--config.model.max_len=32",
    "--config.model.vocab_size=264",
    "--config.checkpoint.every_steps=2",
    "--config.optimizer.warmup_steps=1",
    "--config.eval.sample_tokens=8",
    "--config.eval.batch_size=2",
    "--config.eval.compressors=False",
]
CLASSIFIED = [
    f"--config={ROOT}/configs/classify.py",
    "--config.init_from=runs/pretrained",
    "--config.data.train=text/train.jsonl",
    "--config.data.validation=text/validation.jsonl",
    "--config.data.seq_len=32",
    "--config.data.truncate=True",
    "--config.data.batch_size=4",
    "--config.train.num_epochs=0",
    "--config.train.num_steps=4",
    "--config.optimizer.peak_lr=2e-5",  # The recipe's rate was lower then.
    "--config.checkpoint.every_steps=2",
    "--config.eval.every_steps=2",
]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    with tarfile.open(ROOT / "tests/old_workdirs.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(*arguments):
    ended, printed = option_runs.run(arguments)
    assert ended.code == 0, ended.line
    return printed


def last_evaluation(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "eval/loss" in line][-1]


@pytest.mark.parametrize(
    "name, arguments", {"pretrained": PRETRAINED, "classified": CLASSIFIED}.items()
)
def test_an_old_run_goes_on_to_what_its_own_version_reached(name, arguments, folder):
    workdir = folder / "runs" / name
    expected = last_evaluation(workdir)

    printed = launch(*arguments, f"--workdir={workdir}")

    assert "continuing from step 2" in printed
    assert (workdir / "checkpoints/4").is_dir()
    assert last_evaluation(workdir) == pytest.approx(expected, rel=1e-5)


def test_an_old_run_is_evaluated_sampled_from_and_converted(folder):
    evaluated = launch(
        f"--config={ROOT}/configs/evaluate.py", "--config.checkpoint=runs/pretrained"
    )
    predicted = launch(
        f"--config={ROOT}/configs/evaluate.py", "--config.checkpoint=runs/classified"
    )
    written = launch(
        f"--config={ROOT}/configs/generate.py",
        "--config.checkpoint=runs/pretrained",
        "--config.prompt=The ",
        "--config.max_new_tokens=8",
    )
    launch(
        f"--config={ROOT}/configs/convert.py",
        "--config.source=runs/pretrained",
        "--config.target=exported",
    )
    back = launch(
        f"--config={ROOT}/configs/evaluate.py",
        "--config.checkpoint=exported",
        "--config.data.seq_len=32",
        "--config.data.source=text",
        "--config.data.train=text/train.txt",
        "--config.data.validation=text/validation.txt",
    )

    loss = lambda text: float(text.split("eval/loss")[1].split()[0])
    assert loss(back) == pytest.approx(loss(evaluated), abs=1e-5)
    assert "at step 2" in evaluated and "of each label" in predicted
    assert written.startswith("The ")
