"""What a command and all that it starts take: seconds, processor seconds, and memory."""

import os
import pathlib
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

_INTERVAL_SECONDS = 0.1


class Taken(NamedTuple):
    """What a command took.

    peak_bytes: the most that its processes held in memory at once, by what it was at; of what they
      share each holds its part.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: dict[str, int]


def run(command: Sequence[str], at: Callable[[], str] = lambda: "all", **options: Any) -> Taken:
    """Runs a command, and looks at its memory all the time; raises SystemExit where it fails.

    Args:
      command: the program and its arguments.
      at: names what it is at.
      **options: of Popen.
    """
    start, before = time.perf_counter(), _of_children()
    process = subprocess.Popen(command, **options)
    peaks: dict[str, int] = {}
    while process.poll() is None:
        name = at()
        peaks[name] = max(peaks.get(name, 0), _held(process.pid))
        time.sleep(_INTERVAL_SECONDS)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return Taken(time.perf_counter() - start, _of_children() - before, peaks)


def _of_children() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _held(pid: int) -> int:
    children: dict[int, list[int]] = {}
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:  # It has ended.
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    total, waiting = 0, [pid]
    while waiting:
        one = waiting.pop()
        waiting += children.get(one, [])
        try:
            lines = pathlib.Path(f"/proc/{one}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total
