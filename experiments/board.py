"""What a person sees of the runs of a sweep: one table at the bottom, or plain lines in a file."""

import collections
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table

from experiments.sweep import Run
from lm.results.state import NUM_STEPS, state_of
from lm.results.tail import Tail

_REFRESH_SECONDS = 1.0


class Board:
    """Shows the runs that are there, and says in a line what became of each.

    Args:
      console: written to; a terminal gets the table, anything else the lines alone.
      counts: of runs by what became of them, before the first one starts.
    """

    def __init__(self, console: rich.console.Console, counts: dict[str, int]):
        self._console, self._counts = console, collections.Counter(counts)
        self._rows: dict[str, _Row] = {}
        self._next_seconds = 0.0
        # Drawn by `read` alone: where a thread draws, a process cannot be started safely.
        self.live = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def started(self, run: Run, where: str) -> None:
        """A run has its process."""
        self._counts["waiting"] -= 1
        self._rows[run.name] = _Row(run)
        self.say(f"start    {run.name}  {differences(run)}  on {where}")

    def ended(self, run: Run, kind: str, note: str) -> None:
        """A run's process has ended, or none was needed."""
        self._counts[kind] += 1
        if self._rows.pop(run.name, None) is None:
            self._counts["waiting"] -= 1
        self.say(f"{kind:<8} {run.name}  {differences(run)}  {note}".rstrip())

    def read(self) -> list[tuple[Run, dict[str, Any]]]:
        """What the runs have logged since the last call, in order for each."""
        news = [(row.run, record) for row in self._rows.values() for record in row.read()]
        now_seconds = time.monotonic()
        if self._console.is_terminal and now_seconds >= self._next_seconds:
            self._next_seconds = now_seconds + _REFRESH_SECONDS
            self.live.update(self._table(), refresh=True)
        return news

    def say(self, text: str) -> None:
        """Writes a line."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> rich.table.Table:
        counts = [f"{num} {kind}" for kind, num in self._counts.items() if num]
        table = rich.table.Table(
            "run", "differs in", "step", "loss", caption=", ".join(counts), caption_justify="left"
        )
        for column in table.columns[2:]:
            column.justify = "right"
        for row in self._rows.values():
            loss = "" if row.loss is None else f"{row.loss:.4f}"
            table.add_row(row.run.name, differences(row.run), f"{row.step}/{row.num_steps}", loss)
        return table


@contextlib.contextmanager
def shown(*, done: int, waiting: int) -> Iterator[Board]:
    """A board on stdout, with so many runs done and so many that are still to start."""
    board = Board(rich.console.Console(), {"done": done, "waiting": waiting})
    with board.live if board.live.console.is_terminal else contextlib.nullcontext():
        yield board


def differences(run: Run) -> str:
    """What tells this run from the others of its sweep."""
    return "  ".join(f"{key}={value}" for key, value in run.overrides.items())


def last_metric(records: list[dict[str, Any]], name: str) -> float | None:
    """The value of a metric where it was logged last; None where that was no number, or nowhere."""
    return next((r[name] for r in reversed(records) if name in r), None)


class _Row:
    """What was read of a run."""

    def __init__(self, run: Run):
        self.run, self._tail = run, Tail(run.workdir)
        self.step, self.num_steps, self.loss = 0, "?", None

    def read(self) -> list[dict[str, Any]]:
        records = self._tail.read()
        for record in records:
            self.step = record["step"]
            self.num_steps = record.get(NUM_STEPS, self.num_steps)
            self.loss = record.get("train/loss", self.loss)
        return records


def standing(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """The runs by their state, as their folders say it; see `lm.results.state`."""
    by_kind: dict[str, list[Run]] = {"done": [], "running": [], "dead": [], "waiting": []}
    for run in runs:
        by_kind[state_of(run.workdir).kind].append(run)
    return by_kind
