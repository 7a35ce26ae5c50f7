"""A queue of real processes that do next to nothing."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import ml_collections
import pytest

from experiments.launchers import local
from experiments.sweeps import device_slots, process_pool
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run.status import state_of

ROOT = pathlib.Path(__file__).parent.parent.parent
FAKE = (sys.executable, "-S", str(ROOT / "tests" / "fake_run.py"))
CORES = sorted(os.sched_getaffinity(0))
TWO_CORES = pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(process_pool, "PROGRAM", FAKE)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


def make_run(folder, name, steps=2, loss=1.0, **more):
    values = {"workdir": folder / name, "steps": steps, "loss": loss} | more
    arguments = tuple(f"--{key}={value}" for key, value in values.items())
    return PlannedRun(name, folder / name, {"loss": loss}, ml_collections.ConfigDict(), arguments)


def kinds(runs):
    return [state_of(run.workdir).kind for run in runs]


def test_what_is_done_is_skipped_and_what_died_goes_on(tmp_path, capsys):
    dead, done, new = (make_run(tmp_path, name, steps=3) for name in ("dead", "done", "new"))
    for run, records in (
        (dead, [{"step": 0, "run/num_steps": 3}, {"step": 2, "train/loss": 0.5}]),
        (done, [{"step": 3, "run/done": 1}]),
    ):
        run.workdir.mkdir()
        text = "".join(json.dumps(record) + "\n" for record in records)
        (run.workdir / "metrics.jsonl").write_text(text)

    code = local.run([dead, done, new], tmp_path, num_parallel=1, devices_per_run=0)

    assert code == 0
    assert kinds([dead, done, new]) == ["done"] * 3
    logs = {path.name: path.read_text() for path in (tmp_path / "logs").iterdir()}
    assert logs == {"dead.log": "from step 2\n", "new.log": "from step 0\n"}
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["start", "dead"],
        ["done", "dead"],
        ["start", "new"],
        ["done", "new"],
        ["runs:", "3"],
    ]
    assert "loss=1.0" in out and "eval/loss 0.3333" in out
    assert local.run([dead, done, new], tmp_path, num_parallel=1, devices_per_run=0) == 0
    assert capsys.readouterr().out == "runs: 3 done\n"


def test_a_run_that_another_launcher_has_started_is_left_to_it(tmp_path, capsys, monkeypatch):
    first, second = make_run(tmp_path, "first"), make_run(tmp_path, "second")
    start = process_pool.ProcessPool.start

    def start_as_the_other_ends(pool, run):
        second.workdir.mkdir()
        (second.workdir / "metrics.jsonl").write_text('{"step": 2, "run/done": 1}\n')
        return start(pool, run)

    monkeypatch.setattr(process_pool.ProcessPool, "start", start_as_the_other_ends)

    assert local.run([first, second], tmp_path, num_parallel=1, devices_per_run=0) == 0
    assert "done     second  loss=1.0  in another process" in capsys.readouterr().out


def test_a_run_that_fails_is_explained_and_stops_no_other(tmp_path, capsys):
    bad, good = make_run(tmp_path, "bad", do="fail"), make_run(tmp_path, "good")

    assert local.run([bad, good], tmp_path, num_parallel=1, devices_per_run=0) == 1

    assert kinds([bad, good]) == ["failed", "done"]
    (line,) = (x for x in capsys.readouterr().out.splitlines() if x.startswith("failed"))
    assert line.endswith(f"exit code 2: error: the loss is a goat; see {tmp_path}/logs/bad.log")


@TWO_CORES
def test_runs_at_the_same_time_share_the_cores(tmp_path):
    runs = [make_run(tmp_path, str(i), do="devices", seconds=0.3) for i in range(2)]

    assert local.run(runs, tmp_path, num_parallel=2, devices_per_run=1) == 0

    seen = [json.loads((run.workdir / "devices.json").read_text()) for run in runs]
    assert [x[:2] for x in seen] == [[[CORES[0]], "1"], [[CORES[1]], "1"]]
    assert os.getsid(0) not in [x[2] for x in seen]


LAUNCHER = """
import pathlib, sys
from experiments.sweeps import process_pool
from experiments.launchers import local
from tests.launchers import local_test
process_pool.PROGRAM = local_test.FAKE
folder = pathlib.Path(sys.argv[1])
runs = [local_test.make_run(folder, str(i), do=do) for i, do in enumerate(sys.argv[2:])]
sys.exit(local.run(runs, folder, num_parallel=1, devices_per_run=0))
"""


def start_launcher(folder, *dos):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, folder, *dos],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )


def wait_until(is_true):
    for _ in range(3000):
        if is_true():
            return
        time.sleep(0.01)
    raise AssertionError("waited for half a minute")


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_signal_ends_all_in_order_and_the_same_command_goes_on(tmp_path, signum):
    process = start_launcher(tmp_path, "wait", "train")
    wait_until((tmp_path / "0" / "metrics.jsonl").exists)
    time.sleep(0.05)
    process.send_signal(signum)
    out, _ = process.communicate()

    assert process.returncode == 75
    assert [line.split()[0] for line in out.splitlines()] == ["start", "stopped", "runs:"]
    assert out.endswith("runs: 1 waiting, 1 stopped\n")
    assert not (tmp_path / "1").exists()

    runs = [make_run(tmp_path, str(i)) for i in range(2)]
    assert local.run(runs, tmp_path, num_parallel=1, devices_per_run=0) == 0
    assert kinds(runs) == ["done", "done"]


def test_no_run_outlives_a_launcher_that_is_killed(tmp_path):
    process = start_launcher(tmp_path, "wait")
    wait_until((tmp_path / "0" / "metrics.jsonl").exists)
    (child,) = children_of(process.pid)
    process.kill()
    process.wait()

    wait_until(lambda: not is_alive(child))


def children_of(pid):
    text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def is_alive(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("num_runs", "num_parallel", "devices_per_run", "expected"),
    [
        (9, 0, 0, ["0", "1", "2", "3"]),
        (3, 0, 0, ["0", "1", "2"]),
        (9, 2, 0, ["0,1", "2,3"]),
        (9, 0, 2, ["0,1", "2,3"]),
        (9, 3, 1, ["0", "1", "2"]),
        (1, 0, 4, ["0,1,2,3"]),
        (0, 0, 0, []),
    ],
)
@pytest.mark.parametrize(
    ("kind", "variable"), [("GPU", "CUDA_VISIBLE_DEVICES"), ("TPU chip", "TPU_VISIBLE_CHIPS")]
)
def test_accelerators_are_shared_out(
    monkeypatch, kind, variable, num_runs, num_parallel, devices_per_run, expected
):
    if (kind, num_runs) == ("TPU chip", 1):
        expected = [None]  # The whole host needs no telling.
    monkeypatch.setattr(device_slots, "_devices", lambda: (kind, ["0", "1", "2", "3"]))

    slots = device_slots.slots(num_runs, num_parallel=num_parallel, devices_per_run=devices_per_run)

    assert [slot.environment.get(variable) for slot in slots] == expected
    assert len({slot.environment.get("TPU_PROCESS_PORT") for slot in slots}) == (
        len(slots) if kind == "TPU chip" else min(1, len(slots))
    )


@pytest.mark.parametrize(
    ("num_parallel", "devices_per_run", "message"),
    [
        (5, 0, "num_parallel=5"),
        (2, 3, "devices_per_run=3"),
        (0, 5, "4 TPU chips"),
        (0, 3, "1, 2, 4"),
        (-1, 0, "num_parallel=-1"),
    ],
)
def test_more_than_there_is_is_refused(monkeypatch, num_parallel, devices_per_run, message):
    monkeypatch.setattr(device_slots, "_devices", lambda: ("TPU chip", ["0", "1", "2", "3"]))

    with pytest.raises(UserError, match=message):
        device_slots.slots(9, num_parallel=num_parallel, devices_per_run=devices_per_run)


def test_a_plan_is_the_commands_that_would_run(tmp_path):
    run = make_run(tmp_path, "new", do="it's")

    text = local.plan([run], tmp_path, num_parallel=1, devices_per_run=0)

    assert text.splitlines()[1].endswith(
        f"--workdir={tmp_path}/new --steps=2 --loss=1.0 '--do=it'\"'\"'s'"
    )
    assert not run.workdir.exists()
