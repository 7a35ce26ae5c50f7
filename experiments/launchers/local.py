"""Runs on the devices of this machine, so many at a time."""

import pathlib
import shlex
from collections.abc import Sequence

from experiments.sweeps import device_slots, process_pool
from experiments.sweeps import status_table as board_lib
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.process_pool import exit_code
from lm.run.status import read_records, state_of


def run(
    runs: Sequence[PlannedRun], folder: pathlib.Path, *, num_parallel: int, devices_per_run: int
) -> int:
    """Trains what is not done, each run in a process of its own; one that fails stops no other.

    FOLDER/logs/NAME.log has what a run says. SIGINT or SIGTERM has all of them save and end; a
    second one ends them at once. Returns 0 where all are done, 1 where some failed, 75 where some
    have still to go on.

    Raises:
      UserError: there are not so many devices.
    """
    by_kind = board_lib.standing(runs)
    waiting = board_lib.to_start(by_kind)
    slots = device_slots.slots(
        len(waiting), num_parallel=num_parallel, devices_per_run=devices_per_run
    )
    kinds = ["running elsewhere"] * len(by_kind["running"])
    with (
        process_pool.stop_on_signals() as stop,
        board_lib.open_table(done=len(by_kind["done"]), waiting=len(waiting)) as board,
        process_pool.opened(slots, folder, stop) as pool,
    ):
        for other in by_kind["running"]:
            board.say(f"running  {other.name}  {board_lib.differences(other)}  in another process")
        while pool.runs or (waiting and not stop.is_told):
            stop.obey(pool)  # Here and not in the signal's handler, which may interrupt a start.
            while waiting and pool.has_room() and not stop.is_told:
                kinds += _start(waiting.pop(0), pool, board)
            board.read()
            for end in pool.ended():
                kinds.append(end.kind)  # Its slot is free again.
                board.ended(end.run, end.kind, end.why or _result(end.run))
    # Runs that a signal kept from starting have still to go on.
    return exit_code(kinds + ["stopped"] * len(waiting), stop.is_told)


def check(**_) -> None:
    """Checks nothing: this launcher starts no program but Python."""


def plan(
    runs: Sequence[PlannedRun], folder: pathlib.Path, *, num_parallel: int, devices_per_run: int
) -> str:
    """Gives the command of each run that is not done, and what it would run on."""
    waiting = board_lib.unfinished(runs)
    slots = device_slots.slots(
        len(waiting), num_parallel=num_parallel, devices_per_run=devices_per_run
    )
    if not waiting:
        return "nothing is left to start"
    where = f"{len(slots)} at a time, on {'; '.join(slot.name for slot in slots)}"
    commands = [shlex.join([*process_pool.PROGRAM, *one.arguments]) for one in waiting]
    return "\n".join([where, *commands])


def _start(
    run: PlannedRun, pool: process_pool.ProcessPool, board: board_lib.StatusTable
) -> list[str]:
    """Starts a run, unless another launcher of this folder has done so; then how it stands."""
    kind = state_of(run.workdir).kind  # Read again: runs before this one may have taken days.
    if kind in ("done", "running"):
        board.ended(run, kind, "in another process")
        return [kind]
    board.started(run, pool.start(run).name)
    return []


def _result(run: PlannedRun) -> str:
    """Says what a run came to, in a few words."""
    records, _ = read_records(run.workdir)
    step, loss = records[-1]["step"] if records else 0, board_lib.last_metric(records, "eval/loss")
    return f"step {step}" if loss is None else f"step {step}, eval/loss {loss:.4f}"
