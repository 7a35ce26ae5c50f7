"""Several processes that train as one: real ones, on this machine."""

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

from lm.errors import UserError
from lm.train import hosts

ROOT = pathlib.Path(__file__).parent.parent
PRETRAINING = [
    "--config=configs/gpt2.py:debug",
    "--config.data.source=text",
    "--config.eval.sample_tokens=0",
    "--config.train.num_steps=30",
    "--config.eval.every_steps=10",
    "--config.checkpoint.every_steps=10",
]


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


def wait_for_step(workdir, step, processes):
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
        assert all(p.poll() is None for p in processes), processes[0].communicate()
        time.sleep(0.02)


def losses(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    names = ("train/loss", "eval/loss", "train/tokens")
    return {(line["step"], name): line[name] for line in lines for name in names if name in line}


def test_two_processes_stop_together_and_one_goes_on_as_if_it_had_been_alone(corpus, tmp_path):
    args = PRETRAINING + [f"--config.data.{kind}={files}" for kind, files in corpus.items()]
    two = start_two(tmp_path / "two", args)
    wait_for_step(tmp_path / "two", 4, two)
    two[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate() for p in two]

    assert [p.returncode for p in two] == [75, 75], outputs
    (stopped,) = re.findall(r"stopped at step (\d+) and saved", outputs[0][0])
    steps = [int(p.name) for p in (tmp_path / "two" / "checkpoints").iterdir()]
    assert max(steps) == int(stopped) < 30
    assert "stopped" not in outputs[1][0]  # The first one alone speaks.

    rest = start(tmp_path / "two", args, num_devices=2)
    assert f"continuing from step {stopped}" in rest.communicate()[0]
    alone = start(tmp_path / "alone", args, num_devices=1)
    alone.communicate()
    assert (rest.returncode, alone.returncode) == (0, 0)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)


def test_two_processes_fine_tune_and_score_as_one_does(tmp_path):
    records = [{"text": f"{word} {i}", "label": word} for i in range(20) for word in ("a", "b")]
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(record) + "\n" for record in records))
    args = [
        "--config=configs/classify.py:debug,tokenizer=bytes",
        f"--config.data.train={data}",
        "--config.data.seq_len=32",
        "--config.data.multiple=32",
        "--config.model.dropout=0.0",
        "--config.train.num_steps=4",
        "--config.eval.every_steps=2",
        "--config.checkpoint.every_steps=2",
    ]
    two = start_two(tmp_path / "two", args)
    alone = start(tmp_path / "alone", args, num_devices=1)
    outputs = [p.communicate() for p in (*two, alone)]

    assert [p.returncode for p in (*two, alone)] == [0, 0, 0], outputs
    result, expected = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("two", "alone")
    )
    assert result["metrics"] == pytest.approx(expected["metrics"], rel=1e-4)


def test_a_process_that_is_killed_ends_the_other_with_a_line(corpus, tmp_path):
    args = PRETRAINING + [f"--config.data.{kind}={files}" for kind, files in corpus.items()]
    args += ["--config.train.num_steps=9999", "--config.eval.every_steps=0"]
    two = start_two(tmp_path / "run", [*args, "--heartbeat_seconds=10"])
    wait_for_step(tmp_path / "run", 4, two)

    two[1].kill()

    errors = two[0].communicate(timeout=60)[1]
    assert two[0].returncode == 75
    assert re.search(r"^error: another process was lost, .*\n\Z", errors, re.MULTILINE), errors


def test_another_config_is_named_by_both_and_nothing_is_written(tmp_path):
    two = start_two(tmp_path / "run", PRETRAINING, of_second=["--config.seed=7"])
    errors = [p.communicate()[1] for p in two]

    assert [p.returncode for p in two] == [2, 2]
    line = "error: process 1 has another config than process 0: seed is 7 there and 0 in process 0"
    assert all(re.fullmatch(f"({line}; start all alike|\\[Gloo\\].*)\n", e) for e in errors), errors
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num_processes=2"], "need --coordinator=HOST:PORT"),
        (["--coordinator=here", "--num_processes=2", "--process_id=0"], "must be auto, or HOST"),
        (["--coordinator=127.0.0.1:9", "--num_processes=2"], "needs --num_processes and"),
        (
            ["--coordinator=127.0.0.1:9", "--num_processes=2", "--process_id=2"],
            "--process_id=2 must be from 0",
        ),
        (
            [
                "--coordinator=127.0.0.1:9",
                "--num_processes=2",
                "--process_id=1",
                "--connect_seconds=1",
            ],
            "not all processes were there within 1 seconds",
        ),
    ],
)
def test_processes_that_cannot_meet_say_why_in_a_line(args, message, tmp_path):
    process = start(tmp_path / "run", [*PRETRAINING, *args])
    _, errors = process.communicate()

    assert process.returncode == 2
    assert re.fullmatch(f"error: .*{message}.*\n", errors), errors


def test_what_one_process_cannot_do_none_does(monkeypatch):
    monkeypatch.setattr(hosts, "_gather", lambda text: [text, "no room"])

    with pytest.raises(UserError, match="process 1: no room"), hosts.together():
        pass


def test_other_data_is_named(monkeypatch):
    monkeypatch.setattr(hosts, "_gather", lambda text: [text, text.replace("one", "two")])

    with pytest.raises(UserError, match=r"process 1 has another data .* hash is 'two' there"):
        hosts.check_same("data", {"hash": "one"})
