"""SIGKILL at random moments, and the same command again: is the end the same to the bit?"""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from benchmarks.faults import commands
from benchmarks.faults.commands import Place

_GONE_SECONDS = 10.0  # The processes that a killed one has started end within this time.


class Kind(NamedTuple):
    """A command that is killed.

    arguments: folder -> the command that fills it.
    outcome: folder -> what it came to.
    left: what lies in the folder's parent for want of an orderly end, which the next start removes.
    is_over: whether all was done when it was killed, and it refuses to do it again.
    """

    arguments: Callable[[pathlib.Path], list[str]]
    outcome: Callable[[pathlib.Path], Any]
    left: Callable[[pathlib.Path], list[str]]
    is_over: Callable[[pathlib.Path], bool] = lambda folder: False


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
    }


NAMES = ("pretraining", "fine-tuning", "sweep of two", "preparation", "convert")


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
    # Preparation fills a cache, and all others share one, whose compiled programs are there.
    cache = lambda folder: str(folder) if name == "preparation" else "cache"
    seconds = place.must(kind.arguments(whole), cache(whole)).seconds
    wanted = kind.outcome(whole)
    num_done, num_right, odd = 0, 0, []
    while num_done < num_kills:
        folder, waiting = _new(base), 0
        # Killed again and again, until that was enough or it has ended before.
        for _ in range(num_kills - num_done):
            moment = rng.uniform(0.3, seconds)
            was_killed, took, outliving = _kill(place, kind, folder, cache(folder), moment)
            odd += [f"{outliving} processes outlived it"] if outliving else []
            if not was_killed:
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


def _kill(
    place: Place, kind: Kind, folder: pathlib.Path, cache: str, moment: float
) -> tuple[bool, float, int]:
    """Whether the command was killed before its end, after what time, and how many outlived it."""
    process, start = place.start(kind.arguments(folder), cache), time.monotonic()
    try:
        process.wait(timeout=moment)
        return False, time.monotonic() - start, 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return True, moment, _outliving(place)
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
