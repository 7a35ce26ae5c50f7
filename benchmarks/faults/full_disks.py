"""Disks without room, in each stage: a small tmpfs, which only root may mount."""

import contextlib
import pathlib
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.faults import commands
from benchmarks.faults.commands import Done, Place


class Row(NamedTuple):
    """What came of a full disk in a stage."""

    stage: str
    what: str
    is_right: bool


def why_not(folder: pathlib.Path) -> str:
    """Why no disk can be filled here; "" where one can."""
    try:
        with _disk(folder / "probe", "1m"):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no tmpfs can be mounted ({error})"


def rows(place: Place, run: pathlib.Path, exported: pathlib.Path) -> Iterator[Row]:
    """One after the other."""
    disk = place.folder / "disk"
    with _disk(disk, "300k"):
        done = place.run(place.preparation(), "disk")
        left = [path.name for path in disk.glob("data/*.unfinished")]
        yield _row("preparation", done, str(disk), not left)
    tuned = place.folder / "tuned"
    place.must(place.fine_tuning(tuned))
    no_saves = lambda workdir: [*place.pretraining(workdir), "--config.checkpoint.every_steps=0"]
    for stage, command, is_due, whole in (
        ("pretraining, before its first save", place.pretraining, '"step": 2,', run),
        ("pretraining, between saves", place.pretraining, '"step": 23,', run),
        ("pretraining, its logs", no_saves, '"step": 2,', None),
        ("fine-tuning, between saves", place.fine_tuning, '"step": 9,', tuned),
    ):
        with _disk(disk, "60m"):
            workdir = disk / "run"
            done = _filled(place, command(workdir), disk, is_due)
            again = place.run(command(workdir))
            outcome = commands.outcome_of_run
            is_kept = again.code == 0 and (whole is None or outcome(workdir) == outcome(whole))
            yield _row(stage, done, str(workdir), is_kept)
    swept, outcome = place.folder / "swept", commands.outcome_of_sweep
    place.must(place.sweep(swept))
    with _disk(disk, "60m"):
        done = _filled(place, place.sweep(disk / "sweep"), disk, '"step": 9,')
        again = place.run(place.sweep(disk / "sweep"))
        is_kept = again.code == 0 and outcome(disk / "sweep") == outcome(swept)
        yield _row("sweep, while its first run trains", done, str(disk), is_kept)
    for stage, source in (("convert out", run), ("convert in", exported)):
        with _disk(disk, "100k"):
            done = place.run(place.conversion(source, disk / "target"))
            yield _row(stage, done, str(disk), not list(disk.iterdir()))
    output = disk / "output.jsonl"
    for stage, command in (
        ("predictions", place.predictions(tuned, output)),
        ("texts written", place.generation(run, output)),
    ):
        with _disk(disk, "100k"):
            output.write_text("old")
            _fill(disk / "filler")
            done = place.run(command)
            is_kept = output.read_text() == "old" and not (disk / "output.jsonl.tmp").exists()
            yield _row(stage, done, str(disk), is_kept)
    with _disk(disk, "3000k"):
        page = disk / "report.html"
        page.write_text("old")
        command = ["report", str(run), f"--output={page}"]
        done = _results(command)
        kept = page.read_text() == "old" and [p.name for p in disk.iterdir()] == [page.name]
        yield _row("report", done, str(page), kept)


_PROGRESS = re.compile(r"preparing |reading |training a |.* at step \d+: \w+$")


def _row(stage: str, done: Done, named: str, is_kept: bool) -> Row:
    lines = [line for line in done.errors.splitlines() if not _PROGRESS.match(line)]
    problems = []
    if done.code != 2:
        problems.append(f"exit code {done.code}")
    if len(lines) != 1:
        problems.append(f"{len(lines)} lines, the first of which: {lines[:1]}")
    if not lines or not lines[-1].startswith("error: ") or "the disk is full" not in lines[-1]:
        problems.append("no line that says so")
    elif named not in lines[-1]:
        problems.append("the file is not named")
    if not is_kept:
        problems.append("what was there, or what should go on, did not")
    return Row(stage, "; ".join(problems) or "one line that names it, exit 2", not problems)


def _filled(place: Place, arguments: list[str], disk: pathlib.Path, is_due: str) -> Done:
    """Runs a command, and fills its disk once a text stands in its metrics.jsonl."""
    process, start = place.start(arguments), time.monotonic()
    filler, is_there = disk / "filler", lambda path: is_due in path.read_text()
    while process.poll() is None and not any(map(is_there, disk.rglob("metrics.jsonl"))):
        time.sleep(0.01)
    _fill(filler)
    errors = process.communicate()[1]
    filler.unlink()
    return Done(process.returncode, time.monotonic() - start, errors)


def _fill(filler: pathlib.Path) -> None:
    """Takes all the room that is left on a disk."""
    for size in (2**16, 2**9):
        with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
            while file.write(bytes(size)):
                pass


def _results(arguments: list[str]) -> Done:
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "lm.results", *arguments],
        cwd=commands.ROOT,
        capture_output=True,
        text=True,
    )
    return Done(done.returncode, 0.0, done.stderr)


@contextlib.contextmanager
def _disk(folder: pathlib.Path, size: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
