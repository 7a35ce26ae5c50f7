"""Disks without room, in each stage: a small tmpfs, which only root may mount."""

import contextlib
import pathlib
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
    for stage, more, is_due in (
        ("checkpoint", (), '"step": 2,'),
        ("logs", ("--config.checkpoint.every_steps=0",), '"step": 2,'),
    ):
        with _disk(disk, "60m"):
            workdir = disk / "run"
            done = _filled(place, [*place.pretraining(workdir), *more], disk, is_due)
            again = place.run([*place.pretraining(workdir), *more])
            whole = again.code == 0 and (
                bool(more) or commands.outcome_of_run(workdir) == commands.outcome_of_run(run)
            )
            yield _row(stage, done, "" if stage == "checkpoint" else str(workdir), whole)
    for stage, source in (("convert out", run), ("convert in", exported)):
        with _disk(disk, "100k"):
            done = place.run(place.conversion(source, disk / "target"))
            yield _row(stage, done, str(disk), not list(disk.iterdir()))
    with _disk(disk, "3000k"):
        page = disk / "report.html"
        page.write_text("old")
        command = ["report", str(run), f"--output={page}"]
        done = _results(command)
        kept = page.read_text() == "old" and [p.name for p in disk.iterdir()] == [page.name]
        yield _row("report", done, str(page), kept)


def _row(stage: str, done: Done, named: str, is_kept: bool) -> Row:
    own = ("preparing", "reading", "training a", "WARNING")  # Lines of progress.
    lines = [line for line in done.errors.splitlines() if not line.startswith(own)]
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
    metrics, filler = disk / "run" / "metrics.jsonl", disk / "filler"
    while process.poll() is None and not (metrics.exists() and is_due in metrics.read_text()):
        time.sleep(0.01)
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(2**16))
    with contextlib.suppress(OSError), filler.open("ab", buffering=0) as file:
        while file.write(b"x" * 512):
            pass
    errors = process.communicate()[1]
    filler.unlink()
    return Done(process.returncode, time.monotonic() - start, errors)


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
