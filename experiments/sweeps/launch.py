"""Starts what a sweep or a search plans, by the launcher that was chosen."""

import collections
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from experiments import cli
from experiments.sweeps import plan
from experiments.sweeps.plan import Base, PlannedRun
from lm.errors import UserError
from lm.run import workdir as workdir_lib
from lm.run.status import state_of
from lm.settings import call


class Launcher(Protocol):
    """A module of experiments/launchers.

    `settings` are those of configs/launchers.py: the fields of its dataclass `Settings`, or, where
    it has none, the keyword-only arguments of `run`.
    """

    def run(self, runs: list[PlannedRun], folder: pathlib.Path, **settings) -> int: ...

    def plan(self, runs: list[PlannedRun], folder: pathlib.Path, **settings) -> str: ...

    def check(self, **settings) -> None: ...  # Raises where what `run` needs is missing here.


def launch(
    base: Base,
    sweep_file: str | None,
    workdir: pathlib.Path,
    launcher: Launcher,
    settings: Mapping[str, Any],
    *,
    can_search: bool,
    dry_run: bool,
) -> int:
    """Has a launcher train what is not done yet, or prints what it would do.

    Returns 0 where all are done, 1 where some failed, 75 where it was stopped, and the same command
    goes on.

    Args:
      base: the config of the command line.
      sweep_file: has `sweep()`; None for the one run of the command line.
      workdir: of that run, or the folder of the runs of the sweep.
      launcher, settings: a module of experiments/launchers, and its block of settings.
      can_search: whether it is one that a search can use.
      dry_run: start nothing.

    Raises:
      UserError: before anything is started or written.
    """
    workdir_lib.check_usable(workdir)
    cli.check_settings(getattr(launcher, "Settings", launcher.run), settings)
    if sweep_file is None:
        runs, folder = [plan.plan_alone(base, workdir)], workdir.parent
    else:
        if (workdir / workdir_lib.CONFIG).exists():
            raise UserError(f"--workdir={workdir} is the folder of a run; name another for a sweep")
        found, folder = plan.read(sweep_file), workdir
        if isinstance(found, dict):
            if not can_search:
                raise UserError(
                    "a search needs --launcher=local, which sees evaluations as they are logged"
                )
            return _search(base, found, folder, settings, dry_run)
        runs = plan.plan(base, found, folder)
    if dry_run:
        from experiments.sweeps import costs  # It needs JAX, and a launcher is quick without.

        costs.show(runs)
        print(f"\n{launcher.plan(runs, folder, **settings)}")
        return 0
    launcher.check(**settings)
    states = collections.Counter(state_of(run.workdir).kind for run in runs)
    if sweep_file is not None:
        launcher.plan(runs, folder, **settings)  # It refuses what cannot work; now one may write.
        _show_planned(runs)
    print(f"runs in {folder}: {plan.counted(states)}", flush=True)
    return launcher.run(runs, folder, **settings)


def _search(
    base: Base,
    spec: dict[str, Any],
    folder: pathlib.Path,
    settings: Mapping[str, Any],
    dry_run: bool,
) -> int:
    from experiments.sweeps import search as search_lib

    # As `plan` does with overrides: a range of NumPy's is no list of values of a config.
    if isinstance(spec["space"], dict):
        spec = spec | {"space": {key: plan.plain_parts(x) for key, x in spec["space"].items()}}
    search = call(search_lib.Search, "search", spec)
    make_run = plan.make_planner(base, folder)
    if not dry_run:
        return search_lib.run(search, make_run, folder, **settings)
    from experiments.sweeps import costs

    search_lib.check(search, make_run)
    print(search_lib.plan(search))
    costs.show_trial(make_run({}), search.num_trials)
    return 0


def _show_planned(runs: Iterable[PlannedRun]) -> None:
    """Writes the configs of the runs, so that those that never start are seen in their folder."""
    for run in runs:
        # The process must find the very same, and others complete theirs from what they read.
        if run.config.experiment == "pretrain" and not run.config.init_from:
            workdir_lib.plan(run.workdir, run.config.to_dict())
