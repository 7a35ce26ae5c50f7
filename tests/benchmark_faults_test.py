"""The pieces of `python -m benchmarks.faults` that need no training."""

import os
import random
import subprocess
import sys

import pytest

from benchmarks.faults import commands, corruptions, curations, full_disks, kills
from benchmarks.faults.commands import Done
from tests import run_folders


@pytest.mark.parametrize("kind", corruptions._KINDS)
def test_each_kind_of_damage_changes_the_file(tmp_path, kind):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(1, 256)) * 40)

    corruptions.damage(path, kind, random.Random(0))

    assert kind == "removed" or path.is_dir() == (kind == "a folder")
    assert not path.is_file() or path.read_bytes() != bytes(range(1, 256)) * 40


def test_what_is_compared_of_a_run_leaves_out_what_depends_on_the_clock(tmp_path):
    records = [
        {"step": 1, "train/loss": 2.0, "train/tokens_per_second": 5.0},
        {"step": 1, "run/stopped": 1},
        {"step": 1, "run/num_steps": 9},
        {"step": 2, "eval/loss": 1.5},
    ]
    run_folders.write(tmp_path / "run", {}, records)

    assert commands.logged(tmp_path / "run") == [
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "eval/loss": 1.5},
    ]


def test_a_place_knows_the_processes_that_it_started(tmp_path):
    place = commands.Place(tmp_path, num_steps=20)
    sleeps = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    environment = os.environ | {"LM_CACHE": f"{tmp_path}/cache"}
    with subprocess.Popen(sleeps, env=environment, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert commands.lives(place) == [process.pid]
        process.kill()
    assert commands.lives(place) == []


@pytest.mark.parametrize(
    "code, errors, is_kept, what",
    [
        (2, "preparing train: 5\nerror: a/b: the disk is full: x; free", True, "one line that"),
        (1, "error: a/b: the disk is full", True, "exit code 1"),
        (2, "Traceback\nerror: a/b: the disk is full", True, "2 lines"),
        (2, "error: the disk is full", True, "the file is not named"),
        (2, "error: a/b: no", True, "no line that says so"),
        (2, "error: a/b: the disk is full", False, "what was there"),
    ],
)
def test_a_full_disk_is_right_only_where_one_line_names_it(code, errors, is_kept, what):
    row = full_disks._row("stage", Done(code, 0.0, errors), "a/b", is_kept)

    assert row.what.startswith(what)
    assert row.is_right == what.startswith("one line")


class FakePlace(commands.Place):
    """Runs a program that counts to 40 in a file, and goes on from what it finds there."""

    PROGRAM = (
        "import json, pathlib, sys, time\n"
        "path = pathlib.Path(sys.argv[1]); path.mkdir(parents=True, exist_ok=True)\n"
        "file = path / 'count'\n"
        "for i in range(int(file.read_text()) if file.exists() else 0, 40):\n"
        "    time.sleep(0.005); new = path / 'new'; new.write_text(str(i + 1)); new.replace(file)\n"
    )

    def start(self, arguments, cache="cache"):
        environment = os.environ | {"LM_CACHE": f"{self.folder}/{cache}"}
        return subprocess.Popen(
            [sys.executable, "-c", self.PROGRAM, *arguments],
            env=environment,
            process_group=0,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.mark.parametrize("is_right", [True, False])
def test_kills_at_random_moments_are_counted_and_their_outcome_compared(tmp_path, is_right):
    place = FakePlace(tmp_path, num_steps=20)
    read = lambda folder: (folder / "count").read_text()
    outcome = read if is_right else lambda folder: f"{folder.parent.name} {read(folder)}"
    kind = kills.Kind(lambda folder: [str(folder)], outcome, lambda folder: [])

    num, num_right, odd = kills._disturb(place, "counting", kind, 3, random.Random(0))

    assert num >= 3
    assert (num_right, odd) == ((num, "") if is_right else (0, "another outcome"))


def test_a_curation_that_is_killed_again_and_again_comes_to_the_same_bytes(tmp_path):
    place = commands.Place(tmp_path, num_steps=0)
    kind = kills.Kind(
        curations.make_arguments(tmp_path / "documents", num_documents=120),
        curations.outcome,
        curations.left,
        written=curations.written,
    )

    num, num_right, odd = kills._disturb(place, "curation", kind, 4, random.Random(1))

    assert (num, num_right, odd) == (4, 4, "")
    found = kind.outcome(tmp_path / "curation/whole/out")
    assert {"corpus/report.json", "corpus/provenance.jsonl.zst", "corpus/card.md"} <= found.keys()
    assert len([name for name in found if name.endswith(".jsonl.zst")]) > 80
