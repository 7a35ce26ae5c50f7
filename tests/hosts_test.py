"""Several processes that train as one: real ones, on this machine."""

import importlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from experiments import finetune, pretrain
from lm.errors import UserError
from lm.parallel import hosts

ROOT = pathlib.Path(__file__).parent.parent
PRETRAINING = {
    "data.source": "text",
    "eval.sample_tokens": 0,
    "train.num_steps": 20,
    "eval.every_steps": 10,
    "checkpoint.every_steps": 10,
}

# What Gloo prints of each rank; its threads write the pieces of their lines into one another.
_GLOO = (
    r"\[Gloo\] Rank |\d+| is connected to | peer ranks\. "
    r"|Expected number of connected peer ranks is : "
)


def pretraining(corpus, **changes):
    """The config file, and what is to be changed in it."""
    return "gpt2", "debug", PRETRAINING | {f"data.{k}": v for k, v in corpus.items()} | changes


def flags_of(name, arg, changes):
    return [f"--config=configs/{name}.py:{arg}", *(f"--config.{k}={v}" for k, v in changes.items())]


def run_alone(experiment, workdir, name, arg, changes):
    """The same run in this process, on its two devices."""
    config = importlib.import_module(f"configs.{name}").get_config(arg)
    config.update_from_flattened_dict(changes)
    assert experiment.run(config.lock(), workdir) == 0


def start(workdir, args, *, process=None, port=0, num_devices=4):
    """A run of `launch.py`, by itself or as one of two processes."""
    peers = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={process}"]
    command = [sys.executable, "launch.py", f"--workdir={workdir}", *args]
    return subprocess.Popen(
        command + (peers if process is not None else []),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": str(num_devices), "JAX_PLATFORMS": "cpu"},
    )


def start_two(workdir, args, *, of_second=()):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    first = start(workdir, args, process=0, port=port)
    return first, start(workdir, [*args, *of_second], process=1, port=port)


def wait_for(file, text, processes):
    while not (file.exists() and text in file.read_text()):
        assert all(p.poll() is None for p in processes), processes[0].communicate()
        time.sleep(0.02)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("train/loss", "eval/loss", "train/tokens")
    return {(line["step"], name): line[name] for line in lines for name in names if name in line}


def test_two_processes_stop_together_and_one_goes_on_as_if_it_had_been_alone(
    corpus, tmp_path, capsys
):
    recipe = pretraining(corpus)
    two = start_two(tmp_path / "two", flags_of(*recipe))
    # Before the first step, since JAX looks for signals once a second, and 20 steps may take less.
    wait_for(tmp_path / "two" / "provenance.json", "", two)
    two[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate() for p in two]

    assert [p.returncode for p in two] == [75, 75], outputs
    (stopped,) = re.findall(r"stopped at step (\d+) and saved", outputs[0][0])
    steps = [int(p.name) for p in (tmp_path / "two" / "checkpoints").iterdir()]
    assert max(steps) == int(stopped) < 20
    assert re.sub(_GLOO, "", outputs[1][0]).split() == []  # The first one alone speaks.

    run_alone(pretrain, tmp_path / "two", *recipe)
    assert f"continuing from step {stopped}" in capsys.readouterr().out
    run_alone(pretrain, tmp_path / "alone", *recipe)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


def test_two_processes_fine_tune_and_score_as_one_does(tmp_path):
    records = [{"text": f"{word} {i}", "label": word} for i in range(20) for word in ("a", "b")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    changes = {
        "data.train": str(data),
        "data.validation_share": 0.3,
        "data.seq_len": 32,
        "data.multiple": 32,
        "data.batch_size": 16,
        "model.num_layers": 1,
        "model.model_dim": 16,
        "model.mlp_dim": 32,
        "model.dropout": 0.0,
        "optimizer.peak_lr": 0.01,
        "train.num_steps": 4,
        "eval.every_steps": 2,
        "eval.batch_size": 8,  # So few that both processes have rows with examples in them.
        "checkpoint.every_steps": 2,
    }
    recipe = "classify", "debug,tokenizer=bytes,optimizer=adamw", changes
    two = start_two(tmp_path / "two", flags_of(*recipe))
    run_alone(finetune, tmp_path / "alone", *recipe)
    outputs = [p.communicate() for p in two]

    assert [p.returncode for p in two] == [0, 0], outputs
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    result, expected = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("two", "alone")
    )
    assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-5)


def test_a_process_that_is_killed_ends_the_other_with_a_line(corpus, tmp_path):
    recipe = pretraining(corpus, **{"train.num_steps": 9999, "eval.every_steps": 0})
    two = start_two(tmp_path / "run", [*flags_of(*recipe), "--heartbeat_seconds=10"])
    wait_for(tmp_path / "run" / "metrics.jsonl", '"step": 4,', two)

    two[1].kill()

    errors = two[0].communicate(timeout=60)[1]
    assert two[0].returncode == 75
    assert re.search(r"^error: another process was lost, .*\n\Z", errors, re.MULTILINE), errors


@pytest.mark.parametrize(
    ("flag", "difference"),
    [
        ("--config.seed=7", "seed is 7 there and 0 in process 0"),
        ("--config.experiment=sample", "experiment is 'sample' there and 'pretrain' in process 0"),
        ("--dry_run", "--dry_run is True there and False in process 0"),
    ],
)
def test_another_config_is_named_by_both_and_nothing_is_written(flag, difference, corpus, tmp_path):
    recipe = pretraining(corpus)
    two = start_two(tmp_path / "run", flags_of(*recipe), of_second=[flag])
    errors = [p.communicate()[1] for p in two]

    assert [p.returncode for p in two] == [2, 2]
    line = f"error: process 1 has another config than process 0: {difference}"
    assert all(re.fullmatch(f"({line}; start all alike|\\[Gloo\\].*)\n", e) for e in errors), errors
    assert not (tmp_path / "run").exists()


def test_a_coordinator_that_does_not_answer_is_named_in_a_line(tmp_path):
    args = ["--config=configs/gpt2.py:debug", "--connect_seconds=1"]
    process = start(tmp_path / "run", args, process=1, port=9)
    _, errors = process.communicate()

    assert process.returncode == 2
    message = "--coordinator=127.0.0.1:9: not all processes were there within 1 seconds"
    assert re.fullmatch(f"error: {message}.*\n", errors), errors


@pytest.mark.parametrize(
    ("coordinator", "num_processes", "process_id", "message"),
    [
        (None, 2, None, "need --coordinator=HOST:PORT"),
        ("auto", None, 1, "need --coordinator=HOST:PORT"),
        ("here", 2, 0, "--coordinator=here must be auto, or HOST:PORT"),
        ("127.0.0.1:9", 2, None, "needs --num_processes and --process_id"),
        ("127.0.0.1:9", 2, 2, "--process_id=2 must be from 0"),
    ],
)
def test_flags_that_do_not_go_together_are_named(coordinator, num_processes, process_id, message):
    peers = hosts.connected(
        coordinator,
        num_processes=num_processes,
        process_id=process_id,
        connect_seconds=1,
        heartbeat_seconds=1,
    )
    with pytest.raises(UserError, match=message), peers:
        pass


def test_what_one_process_cannot_do_none_does(monkeypatch):
    monkeypatch.setattr(hosts, "_gather", lambda text: [text, "no room"])

    with pytest.raises(UserError, match="process 1: no room"), hosts.together():
        pass


def test_other_data_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "_gather", lambda text: [text, text.replace("one", "two")])

    with pytest.raises(UserError, match=r"process 1 has another data .* hash is 'two' there"):
        hosts.check_same("data", {"hash": "one"})
