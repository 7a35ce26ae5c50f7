"""The state of a run, read from its folder alone, and the records of its metrics.jsonl."""

import dataclasses
import json
import pathlib
import time
import typing
from collections.abc import Sequence
from typing import Any, Literal

from lm.run import lock
from lm.system import faults

METRICS = "metrics.jsonl"
# In metrics.jsonl: at every start, and at the end. See docs/metrics.md.
NUM_STEPS, DONE, STOPPED, FAILED = "run/num_steps", "run/done", "run/stopped", "run/failed"
_YOUNG_SECONDS = 600  # So long after its last line, a run on another host may be alive.
_NUMBERS = {int, float, type(None)}
_MOST_STEPS = 2**63  # They are counted in 64 bits.
Kind = Literal["done", "running", "stopped", "failed", "dead", "waiting"]
KINDS = typing.get_args(Kind)
UNFINISHED = ("stopped", "failed", "dead", "waiting")  # What a launcher starts, in this order.


@dataclasses.dataclass(frozen=True)
class State:
    """How far a run came.

    "stopped" was told to end, and saved; "failed" ended with an error; "dead" has begun, and its
    process is gone without a word, as after a kill; "waiting" was never started.
    """

    kind: Kind
    step: int  # Of the last line of metrics.jsonl, 0 without any.
    num_steps: int | None  # Where it will end; None where nothing says so yet.
    num_broken: int  # Lines of metrics.jsonl that are no records, as the last one after a kill.


def state_of(workdir: pathlib.Path) -> State:
    """Returns the state of the run whose folder this is or will be, whatever is in the folder."""
    if seeds := seeds_of(workdir):
        return _state_of_seeds(workdir, [state_of(path) for path in seeds])
    return state_from(workdir, *read_records(workdir))


def seeds_of(workdir: pathlib.Path) -> list[pathlib.Path]:
    """Returns the folders of a run that trains one seed after the other, in their order."""
    seeds = [path for path in workdir.glob("seed-*") if path.name[5:].isdecimal()]
    return sorted(seeds, key=lambda path: int(path.name[5:]))


def state_from(workdir: pathlib.Path, records: list[dict[str, Any]], num_broken: int) -> State:
    """Makes the state of a run from its last record and the records of its starts."""
    last = records[-1] if records else {"step": 0}
    num_steps = next((r[NUM_STEPS] for r in reversed(records) if NUM_STEPS in r), None)
    if DONE in last:
        kind = "done"
    elif is_held(workdir):
        kind = "running"
    elif STOPPED in last:
        kind = "stopped"
    elif FAILED in last:
        kind = "failed"
    else:
        # A folder with a config alone is that of a run that a sweep has planned.
        has_begun = any((workdir / name).exists() for name in (METRICS, lock.NAME))
        kind = "dead" if has_begun else "waiting"
    return State(kind, last["step"], num_steps, num_broken)


def mark(workdir: pathlib.Path, how: str, step: int | None = None) -> None:
    """Ends metrics.jsonl, for now or for good, with what became of the run, unless it is done.

    Args:
      workdir: exists.
      how: DONE, STOPPED or FAILED.
      step: the last one; None for that of the last line.
    """
    records, _ = read_records(workdir)
    if is_done(records):
        return
    if step is None:
        step = records[-1]["step"] if records else 0
    path = workdir / METRICS
    text = path.read_bytes() if path.exists() else b""
    line_end = "\n" if text and not text.endswith(b"\n") else ""  # A full disk cut the last line.
    with faults.naming(path), path.open("a") as file:
        file.write(line_end + json.dumps({"step": step, how: 1}) + "\n")


def is_done(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the last record says that the run is complete."""
    return bool(records) and DONE in records[-1]


def read_records(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """Returns the records of metrics.jsonl in order, and the number of lines that are none."""
    path = workdir / METRICS
    lines = path.read_bytes().splitlines() if path.is_file() else []
    records = _records(lines)
    return records, len(lines) - len(records)


class Tail:
    """Reads the records of metrics.jsonl that were not read yet, while a run writes them."""

    def __init__(self, workdir: pathlib.Path):
        self._path, self._inode, self._offset = workdir / METRICS, None, 0

    def read(self) -> list[dict[str, Any]]:
        """Returns the records since the last call; an unfinished line waits for the next one."""
        try:
            with self._path.open("rb") as file:
                stat = self._path.stat()
                # A run that goes on from a checkpoint replaces the file: it is read from its start.
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._inode, self._offset = stat.st_ino, 0
                file.seek(self._offset)
                text = file.read()
        except FileNotFoundError:
            return []
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        return _records(whole.splitlines())


def is_held(workdir: pathlib.Path) -> bool:
    """Whether a process works on this run: it has locked the folder, here or on another host."""
    held = lock.is_held(workdir)
    path = workdir / METRICS
    if held is None and path.exists():  # Another host's lock may not reach this one.
        return time.time() - path.stat().st_mtime < _YOUNG_SECONDS
    return bool(held)


def _records(lines: Sequence[bytes]) -> list[dict[str, Any]]:
    return [record for record in map(record_of, lines) if record is not None]


def record_of(line: str | bytes) -> dict[str, Any] | None:
    """Returns what a line of metrics.jsonl holds; None where it is broken."""
    try:
        # Decoded here, since of bytes JSON's reader takes UTF-16 too.
        record = json.loads(line if isinstance(line, str) else line.decode())
    except (ValueError, RecursionError):
        return None
    return record if is_record(record) else None


def is_record(record: Any) -> bool:
    """Whether this is an object with a step, and else with finite numbers and nulls alone."""
    if not (
        type(record) is dict
        and _is_step(record.get("step"))
        and _is_step(record.get(NUM_STEPS, 0))
        and _NUMBERS.issuperset(map(type, record.values()))
    ):
        return False
    try:  # As a sum, which is the fastest way to ask whether each fits a float.
        sum(filter(None, record.values()), 0.0)
    except OverflowError:
        return False
    return True


def _is_step(value: Any) -> bool:
    return type(value) is int and 0 <= value < _MOST_STEPS  # Not isinstance: True is an int.


def _state_of_seeds(workdir: pathlib.Path, seeds: list[State]) -> State:
    """Makes the state of a run that trains one seed after the other, in folders of their own."""
    last = seeds[-1]
    # It is there already while a run that was done goes on to more steps.
    if (workdir / "seeds.json").exists() and all(seed.kind == "done" for seed in seeds):
        kind = "done"
    elif any(seed.kind == "running" for seed in seeds):
        kind = "running"
    else:  # What is done of the seeds is not the run, and another process may have the next one.
        kind = last.kind if last.kind in ("stopped", "failed") else "dead"
    return State(kind, last.step, last.num_steps, sum(seed.num_broken for seed in seeds))
