"""What became of a run, read from its folder alone."""

import dataclasses
import json
import pathlib
import time
from typing import Any, Literal

from lm import lock

METRICS = "metrics.jsonl"
# In metrics.jsonl: at every start, and at the end. See docs/metrics.md.
NUM_STEPS, DONE = "run/num_steps", "run/done"
_YOUNG_SECONDS = 600


@dataclasses.dataclass(frozen=True)
class State:
    """How far a run came.

    kind: "waiting" was never started; "dead" has begun, is not done, and no process works on it.
    step: of the last line of metrics.jsonl, 0 without any.
    num_steps: where it will end; None where nothing says so yet.
    num_broken: lines of metrics.jsonl that are no records, as the last one after a kill.
    """

    kind: Literal["done", "running", "dead", "waiting"]
    step: int
    num_steps: int | None
    num_broken: int


def state_of(workdir: pathlib.Path) -> State:
    """The state of the run whose folder this is or will be; never raises for what is in it."""
    seeds = [path for path in workdir.glob("seed-*") if path.name[5:].isdecimal()]
    if seeds and not (workdir / METRICS).exists():
        seeds.sort(key=lambda path: int(path.name[5:]))
        return _state_of_seeds(workdir, [state_of(path) for path in seeds])
    return state_from(workdir, *read_records(workdir))


def state_from(workdir: pathlib.Path, records: list[dict[str, Any]], num_broken: int) -> State:
    """The state of a run of which these are known: the last record, and those of its starts."""
    step = records[-1]["step"] if records else 0
    num_steps = next((r[NUM_STEPS] for r in reversed(records) if NUM_STEPS in r), None)
    if records and DONE in records[-1]:
        kind = "done"
    elif is_held(workdir):
        kind = "running"
    else:
        # A config alone is that of a run that is planned.
        has_begun = any((workdir / name).exists() for name in (METRICS, lock.NAME))
        kind = "dead" if has_begun else "waiting"
    return State(kind, step, num_steps, num_broken)


def read_records(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], int]:
    """The records of metrics.jsonl in their order, and the number of lines that are none."""
    path = workdir / METRICS
    lines = path.read_bytes().splitlines() if path.exists() else []
    records = [record for record in map(record_of, lines) if record is not None]
    return records, len(lines) - len(records)


def is_held(workdir: pathlib.Path) -> bool:
    """Whether a process works on this run: it has locked the folder, here or on another host.

    Of another host, whose lock may not reach this one, it is believed for ten minutes after the
    last line of metrics.jsonl.
    """
    held = lock.is_held(workdir)
    path = workdir / METRICS
    if held is None and path.exists():
        return time.time() - path.stat().st_mtime < _YOUNG_SECONDS
    return bool(held)


def record_of(line: str | bytes) -> dict[str, Any] | None:
    """What a line of metrics.jsonl holds; None where it is broken."""
    try:
        record = json.loads(line)
        return record if isinstance(record["step"], int) else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _state_of_seeds(workdir: pathlib.Path, seeds: list[State]) -> State:
    """Of a run that trains one seed after the other, in folders of their own."""
    last = seeds[-1]
    kind = "running" if any(seed.kind == "running" for seed in seeds) else "dead"
    if (workdir / "seeds.json").exists():
        kind = "done"
    return State(kind, last.step, last.num_steps, sum(seed.num_broken for seed in seeds))
