import json
import multiprocessing
import os
import resource
import socket

import pytest

from lm.run import status
from lm.run import workdir as workdir_lib
from lm.run.status import State, state_of

START, STEP, END = (
    {"step": 0, "run/num_steps": 9},
    {"step": 4, "train/loss": 1.0},
    {"step": 9, "run/done": 1},
)
STOP, FAIL = {"step": 4, "run/stopped": 1}, {"step": 4, "run/failed": 1}


def folder_of(tmp_path, *records, tail="", lock=None):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "config.json").write_text("{}")
    text = "".join(json.dumps(record) + "\n" for record in records)
    (workdir / "metrics.jsonl").write_text(text + tail)
    if lock is not None:
        (workdir / ".lock").write_text(lock)
    return workdir


@pytest.mark.parametrize(
    ("records", "tail", "expected"),
    [
        ([], "", State("dead", 0, None, 0)),
        ([START], "", State("dead", 0, 9, 0)),
        ([START, STEP], "", State("dead", 4, 9, 0)),
        ([START, STEP], '{"step": 5, "train/lo', State("dead", 4, 9, 1)),
        ([START, STEP], "null\n[]\n{}\n", State("dead", 4, 9, 3)),
        ([START, STEP, END], "", State("done", 9, 9, 0)),
        ([START, {"step": 5, "run/done": 1}], "", State("done", 5, 9, 0)),
        ([START, STEP, {"step": 4, "run/num_steps": 9}], "", State("dead", 4, 9, 0)),
        ([START, STEP, STOP], "", State("stopped", 4, 9, 0)),
        ([START, STEP, STOP, {"step": 4, "run/num_steps": 9}], "", State("dead", 4, 9, 0)),
        ([START, STEP, FAIL], "", State("failed", 4, 9, 0)),
        ([{"step": 0, "run/failed": 1}], "", State("failed", 0, None, 0)),
        ([{"step": 0, "run/failed": 1}, START], "", State("dead", 0, 9, 0)),
    ],
)
def test_what_became_of_a_run(tmp_path, records, tail, expected):
    assert state_of(folder_of(tmp_path, *records, tail=tail)) == expected


def test_a_run_that_never_started_is_waiting(tmp_path):
    assert state_of(tmp_path / "none") == State("waiting", 0, None, 0)


def hold(workdir, ready, done):
    with workdir_lib.opened(workdir, {}, data_hash=""):
        ready.set()
        done.wait()


def test_a_run_is_running_as_long_as_its_lock_is_held_and_can_be_looked_at(tmp_path):
    spawn = multiprocessing.get_context("spawn")
    ready, done = spawn.Event(), spawn.Event()
    process = spawn.Process(target=hold, args=(tmp_path, ready, done))
    process.start()
    assert ready.wait(120)

    assert [state_of(tmp_path).kind for _ in range(3)] == ["running"] * 3
    done.set()
    process.join()
    assert process.exitcode == 0
    assert state_of(tmp_path).kind == "dead"
    with workdir_lib.opened(tmp_path, {}, data_hash=""):
        pass


@pytest.mark.parametrize(
    ("lock", "age_seconds", "kind"),
    [
        ("process 7 on elsewhere", 60, "running"),
        ("process 7 on elsewhere", 900, "dead"),
        (f"process 7 on {socket.gethostname()}", 60, "dead"),
        ("", 60, "dead"),
    ],
)
def test_another_host_is_believed_for_ten_minutes(tmp_path, monkeypatch, lock, age_seconds, kind):
    workdir = folder_of(tmp_path, START, STEP, lock=lock)
    written = os.stat(workdir / "metrics.jsonl").st_mtime
    monkeypatch.setattr(status.time, "time", lambda: written + age_seconds)

    assert state_of(workdir).kind == kind


def test_a_run_over_seeds_is_done_when_all_are(tmp_path):
    for seed in (9, 10):
        (tmp_path / str(seed)).mkdir()
        folder_of(tmp_path / str(seed), START, END).rename(tmp_path / f"seed-{seed}")
        (tmp_path / str(seed)).rmdir()

    assert state_of(tmp_path) == State("dead", 9, 9, 0)
    (tmp_path / "seeds.json").write_text("{}")
    assert state_of(tmp_path) == State("done", 9, 9, 0)
    with (tmp_path / "seed-10/metrics.jsonl").open("w") as file:
        file.writelines(json.dumps(line) + "\n" for line in (START, STEP, STOP))
    assert state_of(tmp_path) == State("stopped", 4, 9, 0)  # As where it was to be longer.


@pytest.mark.parametrize("how", [status.STOPPED, status.FAILED, status.DONE])
@pytest.mark.parametrize("tail", ["", '{"step": 5, "train/lo'])
def test_what_becomes_of_a_run_is_said_in_its_last_line_unless_it_is_done(tmp_path, how, tail):
    workdir = folder_of(tmp_path, START, STEP, tail=tail)

    status.mark(workdir, how)
    found = state_of(workdir)
    status.mark(workdir, status.DONE, 9)
    status.mark(workdir, how)

    assert found == State(how.removeprefix("run/"), 4, 9, bool(tail))
    assert state_of(workdir).kind == "done"


def test_a_mark_that_finds_no_room_names_its_file(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (13, hard))
    try:
        with pytest.raises(OSError) as caught:
            status.mark(tmp_path, status.FAILED)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert caught.value.filename == str(tmp_path / "metrics.jsonl")
