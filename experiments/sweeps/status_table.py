"""Shows the runs of a sweep: in a table at the bottom of a terminal, or as lines in a file."""

import collections
import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.live
import rich.table
from rich.text import Text

from experiments.sweeps.plan import PlannedRun, counted
from experiments.sweeps.plan import shown as shown_overrides
from lm.run.status import KINDS, NUM_STEPS, UNFINISHED, Tail, state_of
from lm.system import safe_text

_REFRESH_SECONDS = 1.0
_OTHER_LINES = 8  # Of the table, and some of what was said before.


class StatusTable:
    """Shows the runs that are there, and says in a line what became of each.

    A terminal gets the table, any other console the lines alone. `counts` are of runs by their
    state, before the first one starts.
    """

    def __init__(self, console: rich.console.Console, counts: dict[str, int]):
        self._console, self._counts = console, collections.Counter(counts)
        # By name. Apart, so that a look at the runs takes no longer for those that have ended.
        self._running: dict[str, _Row] = {}
        self._ended: dict[str, _Row] = {}
        self._next_seconds = 0.0
        # Drawn by this thread alone: where another one draws, a process cannot be started safely.
        self.live = rich.live.Live(console=console, auto_refresh=False, transient=True)

    def started(self, run: PlannedRun, where: str) -> None:
        """Notes that a run has its process."""
        self._count("waiting", "running")
        self._ended.pop(run.name, None)  # As one that starts anew has.
        self._running[run.name] = _Row(run)
        self.say(f"start    {run.name}  {differences(run)}  on {where}")

    def ended(self, run: PlannedRun, kind: str, note: str) -> None:
        """Notes that a run's process has ended, or that none was needed."""
        self._count("running" if run.name in self._running else "waiting", kind)
        row = self._running.pop(run.name, None) or self._ended.pop(run.name, None) or _Row(run)
        row.read()
        row.kind = kind
        self._ended[run.name] = row
        self.say(f"{kind:<8} {run.name}  {differences(run)}  {note}".rstrip())

    def shared(self, run: PlannedRun) -> None:
        """Notes that a run that was waiting is equal to one that is running."""
        self._counts["waiting"] -= 1
        self.say(f"equal to {run.name}, which is running: {differences(run)}")

    def read(self) -> list[tuple[PlannedRun, dict[str, Any]]]:
        """Returns what the runs have logged since the last call, in order for each."""
        news = [(row.run, record) for row in self._running.values() for record in row.read()]
        if time.monotonic() >= self._next_seconds:
            self._draw()
        return news

    def say(self, text: str) -> None:
        """Writes a line; a terminal shows the table of the last look again below it."""
        self._console.print(safe_text.one_line(text), markup=False, highlight=False, soft_wrap=True)

    def counts(self) -> str:
        """Says how many runs are in which state."""
        return counted(self._counts)

    def _count(self, before: str, after: str) -> None:
        self._counts[before] -= 1
        self._counts[after] += 1

    def _draw(self) -> None:
        if self._console.is_terminal:
            self._next_seconds = time.monotonic() + _REFRESH_SECONDS
            self.live.update(self._table(), refresh=True)

    def _table(self) -> rich.table.Table:
        table = rich.table.Table(
            "run", "differs in", "state", "step", "loss", caption=self.counts()
        )
        for column in table.columns[3:]:
            column.justify = "right"
        # Those that run are at the end, so that they are there where the terminal is too low.
        backwards = itertools.chain(
            reversed(self._running.values()), reversed(self._ended.values())
        )
        shown = itertools.islice(backwards, max(1, self._console.height - _OTHER_LINES))
        for row in reversed([*shown]):
            loss = "" if row.loss is None else f"{row.loss:.4f}"
            step = f"{row.step}/{row.num_steps}"
            name = Text(safe_text.one_line(row.run.name))  # As Text, which has no markup.
            table.add_row(name, Text(differences(row.run)), row.kind, step, loss)
        return table


@contextlib.contextmanager
def open_table(**counts: int) -> Iterator[StatusTable]:
    """Opens a table on stdout; `counts` are of runs done, waiting, ... before it starts."""
    board = StatusTable(rich.console.Console(), counts)
    with board.live if board.live.console.is_terminal else contextlib.nullcontext():
        yield board
    print(f"runs: {board.counts()}", flush=True)


def differences(run: PlannedRun) -> str:
    """Says what tells this run from the config of the command line."""
    return safe_text.one_line(shown_overrides(run.overrides))


def last_metric(records: list[dict[str, Any]], name: str) -> float | None:
    """Returns a metric as it was logged last; None where that was no number, or nowhere."""
    return next((r[name] for r in reversed(records) if name in r), None)


class _Row:
    """A run with what was read of its logs."""

    def __init__(self, run: PlannedRun):
        self.run, self.kind, self._tail = run, "running", Tail(run.workdir)
        self.step, self.num_steps, self.loss = 0, "?", None

    def read(self) -> list[dict[str, Any]]:
        records = self._tail.read()
        for record in records:
            self.step = record["step"]
            self.num_steps = record.get(NUM_STEPS, self.num_steps)
            self.loss = record.get("train/loss", self.loss)
        return records


def unfinished(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Returns those that neither are done nor run, first those that have begun."""
    return to_start(standing(runs))


def to_start(by_kind: dict[str, list[PlannedRun]]) -> list[PlannedRun]:
    """Returns, of what `standing` gave, the runs that neither are done nor run."""
    return [run for kind in UNFINISHED for run in by_kind[kind]]


def standing(runs: Sequence[PlannedRun]) -> dict[str, list[PlannedRun]]:
    """Sorts runs by their state, as their folders say it; see `lm.run.status`."""
    by_kind: dict[str, list[PlannedRun]] = {kind: [] for kind in KINDS}
    for run in runs:
        by_kind[state_of(run.workdir).kind].append(run)
    return by_kind
