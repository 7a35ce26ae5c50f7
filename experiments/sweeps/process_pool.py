"""Runs as processes of this machine, none of which outlives this one."""

import contextlib
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments.sweeps.device_slots import Slot
from experiments.sweeps.plan import PlannedRun
from lm.run import status
from lm.run import workdir as workdir_lib
from lm.system import interrupts
from lm.system.supervisor import STOPPED

PROGRAM = (sys.executable, str(pathlib.Path(__file__).parent.parent.parent / "launch.py"))
_LOOK_SECONDS = 0.1


class RunEnd(NamedTuple):
    """How the process of a run ended."""

    run: PlannedRun
    kind: str  # "done"; "stopped" by a signal, to go on later; or "failed".
    why: str  # Of a failed one, its exit code and the last line that it wrote.


class _Child(NamedTuple):
    run: PlannedRun
    slot: Slot
    process: subprocess.Popen
    log: pathlib.Path


class ProcessPool:
    """The processes of runs, each with a slot to itself."""

    def __init__(self, slots: Sequence[Slot], folder: pathlib.Path):
        self._free, self._folder = list(slots), folder
        self._children: dict[str, _Child] = {}
        self._told: set[str] = set()  # Names of those that were sent a signal.

    @property
    def runs(self) -> list[PlannedRun]:
        """The runs whose process has not ended."""
        return [child.run for child in self._children.values()]

    def has_room(self) -> bool:
        """Tells whether a run could start."""
        return bool(self._free)

    def start(self, run: PlannedRun) -> Slot:
        """Starts a process on a free slot; its output is appended to FOLDER/logs/NAME.log."""
        log = self._folder / "logs" / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        slot = self._free.pop(0)
        with log.open("ab") as file:  # The process has its own descriptor of it.
            command = [*PROGRAM, *run.arguments]
            process = slot.start(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT
            )
        self._children[run.name] = _Child(run, slot, process, log)
        return slot

    def stop(self, run: PlannedRun) -> None:
        """Has a run save and end; it will be reported as stopped, or as done if it just was."""
        self._told.add(run.name)
        self._children[run.name].process.send_signal(signal.SIGTERM)

    def ended(self) -> list[RunEnd]:
        """Waits a moment; returns the runs that ended since the last call."""
        time.sleep(_LOOK_SECONDS)
        return [
            self._end(child)
            for child in list(self._children.values())
            if child.process.poll() is not None
        ]

    def kill(self) -> None:
        """Ends all at once; what was not saved is lost."""
        for child in self._children.values():
            self._told.add(child.run.name)
            child.process.kill()

    def _end(self, child: _Child) -> RunEnd:
        name, code = child.run.name, child.process.returncode
        del self._children[name]
        self._free.append(child.slot)
        is_told = name in self._told
        self._told.discard(name)
        if code == 0:
            return RunEnd(child.run, "done", "")
        # One that was still starting when it was told to stop, had nothing to save.
        if code == STOPPED or is_told:
            return RunEnd(child.run, "stopped", "")
        if code > 0:  # One that a signal killed is seen to be dead by its folder alone.
            _mark_failed(child.run.workdir)
        how = f"exit code {code}" if code > 0 else f"killed by {signal.Signals(-code).name}"
        said = f"{how}: {_last_line(child.log)}" if code > 0 else how
        return RunEnd(child.run, "failed", f"{said}; see {child.log}")


class StopSignal:
    """Takes signals to stop: the first ends all runs in order, a second one at once."""

    def __init__(self):
        self._num_signals = self._num_obeyed = 0

    @property
    def is_told(self) -> bool:
        """Tells whether a signal came."""
        return self._num_signals > 0

    def note(self, *_) -> None:
        """Handles a signal."""
        self._num_signals += 1

    def obey(self, pool: ProcessPool) -> None:
        """Has a pool do what the signals since the last call ask for."""
        if self._num_signals == self._num_obeyed:
            return
        is_first, self._num_obeyed = self._num_obeyed == 0, self._num_signals
        if is_first:
            for run in pool.runs:
                pool.stop(run)
        else:
            pool.kill()


@contextlib.contextmanager
def opened(slots: Sequence[Slot], folder: pathlib.Path, stop: StopSignal) -> Iterator[ProcessPool]:
    """Yields a pool, whose processes end with the block; an error stops them as a signal does."""
    pool = ProcessPool(slots, folder)
    try:
        yield pool
    finally:
        if pool.runs and not stop.is_told:
            stop.note()
        while pool.runs:
            stop.obey(pool)
            pool.ended()


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopSignal]:
    """Listens to ctrl-C, SIGTERM and SIGHUP."""
    stop = StopSignal()
    with interrupts.handled(stop.note):
        yield stop


def _mark_failed(workdir: pathlib.Path) -> None:
    """Marks the folder of a run that failed before it could do so itself."""
    has_run = any((workdir / name).exists() for name in (workdir_lib.CONFIG, status.METRICS))
    if has_run and status.state_of(workdir).kind in ("waiting", "dead"):
        status.mark(workdir, status.FAILED)


def _last_line(log: pathlib.Path) -> str:
    """Returns the last line of a log that says something."""
    if not log.exists():
        return "its log is gone"
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 10_000))  # Logs may be large.
        lines = file.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")


def exit_code(kinds: Sequence[str], is_told_to_stop: bool) -> int:
    """Gives the exit code of a launcher by the kinds of ends of its runs."""
    if "failed" in kinds and not is_told_to_stop:
        return 1
    return 0 if set(kinds) <= {"done", "pruned"} else STOPPED
