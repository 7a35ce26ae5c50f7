"""SIGKILL at random moments, and the same command again: is the end the same to the bit?"""

import contextlib
import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.faults import commands, curations
from benchmarks.faults.commands import Place

_POLL_SECONDS = 0.005
_GONE_SECONDS = 10.0  # The processes that a killed one has started end within this time.


class Kind(NamedTuple):
    """A command that is killed.

    arguments: folder -> the command that fills it.
    outcome: folder -> what it came to.
    left: what lies in the folder's parent for want of an orderly end, which the next start removes.
    is_over: whether all was done when it was killed, and it refuses to do it again.
    written: how many files of it are there. Where it is given, moments are drawn by it and not by
      the clock, which would spend most kills on starts that find everything done.
    """

    arguments: Callable[[pathlib.Path], list[str]]
    outcome: Callable[[pathlib.Path], Any]
    left: Callable[[pathlib.Path], list[str]]
    is_over: Callable[[pathlib.Path], bool] = lambda folder: False
    written: Callable[[pathlib.Path], int] | None = None


def kinds(place: Place, source: pathlib.Path) -> dict[str, Kind]:
    """All that are tried; `source` is a run to convert."""
    no_files = lambda folder: []
    return {
        "pretraining": Kind(place.pretraining, commands.outcome_of_run, no_files),
        "fine-tuning": Kind(place.fine_tuning, commands.outcome_of_run, no_files),
        "sweep of two": Kind(place.sweep, commands.outcome_of_sweep, no_files),
        "preparation": Kind(
            lambda folder: place.preparation(),
            lambda folder: commands.outcome_of_folder(folder / "data"),
            lambda folder: [path.name for path in folder.glob("data/*.unfinished")],
        ),
        "convert": Kind(
            lambda folder: place.conversion(source, folder),
            commands.outcome_of_folder,
            lambda folder: [path.name for path in folder.parent.iterdir() if path != folder],
            pathlib.Path.exists,
        ),
        "curation": Kind(
            curations.make_arguments(place.folder / "documents"),
            curations.outcome,
            curations.left,
            written=curations.written,
        ),
    }


NAMES = ("pretraining", "fine-tuning", "sweep of two", "preparation", "convert", "curation")
_FILL_A_CACHE = ("preparation", "curation")  # All others share one, with programs compiled before.


def rows(
    place: Place, source: pathlib.Path, num_kills: int, seed: int, names: Sequence[str]
) -> Iterator[tuple[str, int, int, str]]:
    """For each kind: its name, how many kills there were, how many were right, and what was odd.

    `num_kills` are those of each kind; `names` are the kinds to try, of `NAMES`.
    """
    every = kinds(place, source)
    for name in NAMES:
        if num_kills and name in names:
            rng = random.Random(f"{seed} {name}")
            yield (name, *_disturb(place, name, every[name], num_kills, rng))


def _disturb(
    place: Place, name: str, kind: Kind, num_kills: int, rng: random.Random
) -> tuple[int, int, str]:
    base = place.folder / name.replace(" ", "-")
    whole = base / "whole" / "out"
    whole.parent.mkdir(parents=True)
    cache = lambda folder: str(folder) if name in _FILL_A_CACHE else "cache"
    seconds = place.must(kind.arguments(whole), cache(whole)).seconds
    wanted = kind.outcome(whole)
    num_done, num_right, odd = 0, 0, []
    while num_done < num_kills:
        folder, waiting = _new(base), 0
        # Killed again and again, until that was enough or it has ended before.
        for num_left in range(num_kills - num_done, 0, -1):
            if kind.written is None:
                is_due = _at(rng.uniform(0.3, seconds))
            else:
                is_due = _once_written(kind.written, folder, whole, num_left, rng)
            kill = rng.choice((os.kill, os.killpg))  # Alone, or with all that it has started.
            command = kind.arguments(folder)
            took, outliving = _kill(place, command, cache(folder), is_due, kill)
            odd += [f"{outliving} processes outlived it"] if outliving else []
            if outliving is None:
                seconds = took  # It is faster now than it was, as with what was compiled before.
                break
            waiting += 1
        num_done += waiting
        is_due = waiting and not kind.is_over(folder)
        done = place.run(kind.arguments(folder), cache(folder)) if is_due else None
        if done is not None and done.code:
            odd.append(f"the same command ended with {done.code}: {done.errors[-300:]}")
        elif kind.outcome(folder) != wanted:
            odd.append("another outcome")
        elif left := kind.left(folder):
            odd.append(f"left behind: {left}")
        else:
            num_right += waiting
        shutil.rmtree(base / "new")
    return num_done, num_right, "; ".join(dict.fromkeys(odd))


def _new(base: pathlib.Path) -> pathlib.Path:
    folder = base / "new" / "out"
    folder.parent.mkdir(exist_ok=True)
    return folder


def _at(moment: float) -> Callable[[float], bool]:
    return lambda seconds: seconds >= moment


def _once_written(
    written: Callable[[pathlib.Path], int],
    folder: pathlib.Path,
    whole: pathlib.Path,
    num_left: int,
    rng: random.Random,
) -> Callable[[float], bool]:
    """Draws how many files are written before the next of some kills, a moment later."""
    at_start = written(folder)
    goal = at_start + rng.uniform(0, min(1, 2 / num_left)) * (written(whole) - at_start)

    def is_due(seconds: float) -> bool:
        if written(folder) <= goal:
            return False
        time.sleep(rng.uniform(0, 0.03))  # So that the next one may be half there.
        return True

    return is_due


def _kill(
    place: Place,
    arguments: Sequence[str],
    cache: str,
    is_due: Callable[[float], bool],
    kill: Callable[[int, int], None],
) -> tuple[float, int | None]:
    """Gives after what time a command ended, and how many outlived it; None: it was not killed."""
    process, start = place.start(arguments, cache), time.monotonic()
    seconds = lambda: time.monotonic() - start
    try:
        while not is_due(seconds()):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_POLL_SECONDS)
                return seconds(), None
        kill(process.pid, signal.SIGKILL)
        process.wait()
        return seconds(), _outliving(place)
    finally:
        process.stderr.close()


def _outliving(place: Place) -> int:
    end = time.monotonic() + _GONE_SECONDS
    while commands.lives(place) and time.monotonic() < end:
        time.sleep(0.1)
    left = commands.lives(place)
    for process in left:
        os.kill(process, signal.SIGKILL)
    return len(left)
