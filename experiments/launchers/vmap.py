"""Runs that differ in a few numbers alone, as one compiled program in this process."""

import os
import pathlib
from collections.abc import Sequence

from experiments.sweeps import status_table as board_lib
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.process_pool import exit_code
from lm.errors import UserError


def run(runs: Sequence[PlannedRun], folder: pathlib.Path, *, max_members: int) -> int:
    """Trains what is not done: one program after the other, each of as many runs as it fits.

    FOLDER/logs/NAME.log has what a run says. SIGINT or SIGTERM has all of them save and end; a
    second one ends them at once. Returns 0 where all are done, 1 where some failed, 75 where some
    have still to go on.

    Raises:
      UserError: before any is started, for whatever would stop one of the runs.
    """
    by_kind = board_lib.standing(runs)
    waiting = board_lib.to_start(by_kind)
    _check(waiting, max_members)
    # Imported here, since they bring JAX, and the other launchers are quick without.
    import jax

    from experiments.sweeps import vmapped_runs
    from lm.system.cache import keep_compiled_programs
    from lm.train import loop

    keep_compiled_programs()
    if jax.config.jax_num_cpu_devices < 0:  # Cores are devices, each with runs of its own.
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))
    # All are made before the first is trained: any of them may have to be refused.
    groups = [
        vmapped_runs.VmappedGroup(group, folder)
        for group in vmapped_runs.grouped(waiting, max_members)
    ]
    kinds = ["running elsewhere"] * len(by_kind["running"])
    with (
        loop.stop_on_signals() as stop_requested,
        board_lib.open_table(done=len(by_kind["done"]), waiting=len(waiting)) as board,
    ):
        for other in by_kind["running"]:
            board.say(f"running  {other.name}  {board_lib.differences(other)}  in another process")
        if len(groups) > 1:
            board.say(_why_several(groups, waiting, max_members))
        while groups and not stop_requested(0):
            kinds += groups.pop(0).train(board, stop_requested)
    return exit_code(kinds + ["stopped"] * len(groups), stop_requested(0))


def check(**_) -> None:
    """Checks nothing: this launcher starts no program."""


def plan(runs: Sequence[PlannedRun], folder: pathlib.Path, *, max_members: int) -> str:
    """Says which runs are trained together."""
    waiting = board_lib.unfinished(runs)
    _check(waiting, max_members)
    from experiments import training
    from experiments.sweeps import vmapped_runs
    from lm.train.evaluation import METRICS

    for one in waiting:
        training.check(one.config, METRICS, None)
    groups = vmapped_runs.grouped(waiting, max_members)
    lines = [_why_several(groups, waiting, max_members)] if len(groups) > 1 else []
    for group in groups:
        keys = ", ".join(vmapped_runs.differing(group)) or "nothing"
        lines.append(f"one program of {len(group)} runs, which differ in {keys}:")
        lines += [f"  {one.name}  {board_lib.differences(one)}" for one in group]
    return "\n".join(lines)


def _why_several(groups: Sequence, runs: Sequence[PlannedRun], max_members: int) -> str:
    from experiments.sweeps import vmapped_runs

    keys = [key for key in vmapped_runs.differing(runs) if key not in vmapped_runs.FREE]
    reasons = [f"the runs differ in {', '.join(keys)}"] if keys else []
    reasons += [f"max_members={max_members}"] if max_members else []
    return f"{len(groups)} programs, one after the other: {'; '.join(reasons)}"


def _check(runs: Sequence[PlannedRun], max_members: int) -> None:
    if max_members < 0:
        raise UserError(f"--launcher.max_members={max_members} must be at least 0")
    for config in [one.config for one in runs]:
        if config.experiment != "pretrain":
            raise UserError(
                f"--launcher=vmap is for pretraining, and experiment={config.experiment!r}; "
                "take --launcher=local"
            )
        if config.parallel.strategy != "jit":
            raise UserError(
                f"--launcher=vmap needs parallel.strategy=jit, not {config.parallel.strategy!r}; "
                "change it, or take --launcher=local"
            )
        # `data` may be anything: each run is made for one device, and its batch stays whole.
        cut = [key for key in ("fsdp", "tensor", "sequence") if config.parallel[key] != 1]
        if cut:
            raise UserError(
                f"--launcher=vmap gives each device whole runs, and parallel.{cut[0]}="
                f"{config.parallel[cut[0]]} cuts them; make it 1, or take --launcher=local"
            )
        if rows := config.data.batch_size_per_device:
            raise UserError(
                f"data.batch_size_per_device={rows} has no meaning where several runs share "
                "a device; set data.batch_size"
            )
