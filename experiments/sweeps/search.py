"""A search for the best config: trials that learn from those before them, on this machine."""

import dataclasses
import hashlib
import importlib.util
import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments import cli
from experiments.sweeps import device_slots, process_pool
from experiments.sweeps import status_table as board_lib
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run import lock
from lm.run import workdir as workdir_lib
from lm.run.status import read_records, state_of
from lm.settings import choose

JOURNAL = "search.journal"
_SAMPLERS, _PRUNERS, _MODES = ("tpe", "random"), ("halving", "none"), ("min", "max")
_INTERVALS = ("uniform", "log_uniform", "integers")
_REDUCTION = 3  # Of four evaluations, say, the first and the third decide who goes on.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a search; see `search` of configs/sweeping.py."""

    space: Mapping[str, Any]
    num_trials: int
    metric: str
    mode: str
    sampler: str
    pruner: str
    seed: int

    def __post_init__(self):
        for key, choices in (("sampler", _SAMPLERS), ("pruner", _PRUNERS), ("mode", _MODES)):
            choose(f"search: {key}", getattr(self, key), choices)
        if type(self.num_trials) is not int or self.num_trials < 1:
            raise UserError(f"search: num_trials={self.num_trials!r} must be a number from 1 on")
        if not isinstance(self.space, dict) or not self.space:
            raise UserError(f"search: space={self.space!r} must be a dict of distributions by key")
        for key, distribution in self.space.items():
            _check_distribution(key, distribution)


def run(
    search: Search,
    make_run: Callable[[dict[str, Any]], PlannedRun],
    folder: pathlib.Path,
    *,
    num_parallel: int,
    devices_per_run: int,
) -> int:
    """Trains trials on the devices of this machine until there are enough; shows the best one.

    The trials are kept in FOLDER/search.journal, and a search that was stopped goes on from there.
    Returns 0 where all trials ended, 1 where some failed, 75 where it was stopped. See `plan` for
    `make_run`, and `device_slots` for the last two arguments.

    Raises:
      UserError: before anything starts; also where `optuna` is missing, or the folder holds another
        search.
    """
    check(search, make_run)
    slots = device_slots.slots(
        search.num_trials, num_parallel=num_parallel, devices_per_run=devices_per_run
    )
    workdir_lib.make(folder)
    with lock.held(folder):
        study = _open_study(search, make_run({}), folder)
        trials = _Trials(search, make_run, study)
        with (
            process_pool.stop_on_signals() as stop,
            board_lib.open_table(**trials.counts, waiting=trials.num_left) as board,
            process_pool.opened(slots, folder, stop) as pool,
        ):
            _work(trials, pool, board, stop)
        print(trials.best())
    return process_pool.exit_code(trials.kinds + ["stopped"] * trials.num_left, stop.is_told)


def check(search: Search, make_run: Callable[[dict[str, Any]], PlannedRun]) -> None:
    """Raises UserError where a value that could be drawn does not fit, or `optuna` is missing."""
    if importlib.util.find_spec("optuna") is None:
        raise UserError("a search needs Optuna: pip install optuna")
    for key, distribution in search.space.items():
        # One by one, and of a range its bounds alone; what does not fit between them fails later.
        for value in distribution if isinstance(distribution, list) else distribution[1:]:
            make_run({key: value})
    from lm.train.evaluation import METRICS  # It brings JAX.

    config = make_run({}).config
    # What a fine-tuning task logs is known once its data is read.
    if config.experiment == "pretrain" and search.metric not in METRICS:
        raise UserError(
            f"search: metric={search.metric!r} is logged by no evaluation; choose "
            f"{', '.join(METRICS)}"
        )
    is_given = "eval.every_steps" in search.space or config.eval.every_steps
    if search.pruner == "halving" and not is_given:
        raise UserError(
            "search: pruner='halving' decides at evaluations, and eval.every_steps=0 leaves only "
            "the last one; set that on the command line, or pruner='none'"
        )


def _check_distribution(key: str, distribution: Any) -> None:
    """Raises UserError where this is nothing that `_draw` can draw from."""
    if isinstance(distribution, list):
        if not distribution:
            raise UserError(f"search: {key}=[] has no choices")
        is_known = all(type(choice) in (bool, int, float, str) for choice in distribution)
    else:
        is_known = (
            isinstance(distribution, tuple)
            and len(distribution) == 3
            and distribution[0] in _INTERVALS
            and all(type(bound) in (int, float) for bound in distribution[1:])
            and -math.inf < distribution[1] < distribution[2] < math.inf
            and (distribution[0] != "log_uniform" or distribution[1] > 0)
            and (distribution[0] != "integers" or {*map(type, distribution[1:])} == {int})
        )
    if not is_known:
        raise UserError(
            f"search: {key}={distribution!r} is no distribution; give a list of numbers or "
            "strings, or one of configs/sweeping.py"
        )


def plan(search: Search) -> str:
    """Says what would be searched, for people."""
    space = "  ".join(f"{key} in {distribution}" for key, distribution in search.space.items())
    return (
        f"{search.num_trials} trials by {search.sampler} for the {search.mode}imum of "
        f"{search.metric}, pruner {search.pruner}: {space}"
    )


def _work(
    trials: "_Trials", pool: process_pool.ProcessPool, board: board_lib.StatusTable, stop
) -> None:
    while pool.runs or (trials.num_left and not stop.is_told):
        stop.obey(pool)
        while pool.has_room() and trials.num_left and not stop.is_told:
            one = trials.next()
            if one.name in [other.name for other in pool.runs]:
                board.shared(one)
            elif kind := trials.known_end(one):
                board.ended(one, kind, "known")
            else:
                board.started(one, pool.start(one).name)
        for one, record in board.read():
            if trials.report(one, record):
                pool.stop(one)
        for end in pool.ended():
            kind = trials.end(end)
            board.ended(end.run, kind, end.why or f"{trials.metric_text(end.run)}")


class _Trials:
    """The trials of a study, and the runs that they stand for; equal trials share a run."""

    def __init__(self, search: Search, make_run: Callable[[dict[str, Any]], PlannedRun], study):
        import optuna

        self._search, self._make_run, self._study = search, make_run, study
        self._state = state = optuna.trial.TrialState
        self.counts = {  # Of those that ended in other processes, by how.
            kind: len(study.get_trials(deepcopy=False, states=[one]))
            for kind, one in (("done", state.COMPLETE), ("pruned", state.PRUNED))
        }
        # That this process has still to begin.
        self.num_left = max(search.num_trials - sum(self.counts.values()), 0)
        # First those that were interrupted, each with what it had drawn.
        running = study.get_trials(states=[state.RUNNING])
        self._interrupted = [optuna.trial.Trial(study, trial._trial_id) for trial in running]
        self._open: dict[str, list[Any]] = {}  # Trials that have not ended, by their run's name.
        self._steps: dict[str, list[int]] = {}  # Of the evaluations of a run.
        self.kinds: list[str] = []

    def next(self) -> PlannedRun:
        """Begins a trial, and returns its run; raises UserError where what it drew does not fit."""
        self.num_left -= 1
        trial = self._interrupted.pop(0) if self._interrupted else self._ask()
        drawn = {key: _draw(trial, key, d) for key, d in self._search.space.items()}
        try:
            run = self._make_run(drawn)
        except UserError:
            self._study.tell(trial, state=self._state.FAIL)
            raise
        self._open.setdefault(run.name, []).append(trial)
        return run

    def known_end(self, run: PlannedRun) -> str | None:
        """Says how a run ended long ago, where the trials need it no more; else None."""
        is_pruned = [self._note(run, record) for record in read_records(run.workdir)[0]]
        if state_of(run.workdir).kind == "done":
            return self.end(process_pool.RunEnd(run, "done", ""))
        return self._prune(run) if any(is_pruned) else None

    def report(self, run: PlannedRun, record: Mapping[str, Any]) -> bool:
        """Takes in what a run has logged; returns whether it is to end here, pruned."""
        if run.name not in self._open or not self._note(run, record):
            return False
        self._prune(run)
        return True

    def end(self, end: process_pool.RunEnd) -> str:
        """Takes in how a run's process ended; returns what became of the trials."""
        if end.run.name not in self._open:
            return "pruned"
        kind = end.kind
        if kind == "done":
            self._tell(end.run, kind, values=self._value(end.run))
        elif kind == "failed":
            self._tell(end.run, kind, state=self._state.FAIL)
        else:  # Stays a running trial, which the next process goes on with.
            self.kinds += [kind] * len(self._open.pop(end.run.name))
        return kind

    def metric_text(self, run: PlannedRun) -> str:
        """Says what a run last logged of the metric."""
        value = board_lib.last_metric(read_records(run.workdir)[0], self._search.metric)
        return f"{self._search.metric} {'unknown' if value is None else f'{value:.4f}'}"

    def best(self) -> str:
        """Says which trial is best, and its config, in a few lines."""
        ended = self._study.get_trials(states=[self._state.COMPLETE])
        counts = ", ".join(
            f"{num} {state.name.lower()}"
            for state in self._state
            if (num := len(self._study.get_trials(deepcopy=False, states=[state])))
        )
        if not ended:
            return f"trials: {counts}"
        trial = self._study.best_trial
        run = self._make_run(trial.params)
        return (
            f"trials: {counts}\n"
            f"best:   {self._search.metric} {trial.value:.6g}, trial {trial.number}, in "
            f"{run.workdir}\n        {board_lib.differences(run)}\n"
            f"        {cli.command(*run.arguments)}"
        )

    def _ask(self):
        # A sampler for each trial: its draws depend on the seed, its number and the trials that
        # ended before, and on no process: a search that was stopped ends as one that was not.
        number = len(self._study.get_trials(deepcopy=False))
        self._study.sampler = _make_sampler(self._search, number)
        return self._study.ask()

    def _note(self, run: PlannedRun, record: Mapping[str, Any]) -> bool:
        """Reports an evaluation, once; returns whether the pruner gives the run up."""
        steps = self._steps.setdefault(run.name, [])
        if self._search.metric not in record or record["step"] in steps:
            return False
        steps.append(record["step"])
        value = record[self._search.metric]
        prunes = []
        for trial in self._open[run.name]:
            known = self._study._storage.get_trial(trial._trial_id).intermediate_values
            # By the number of evaluations: the pruner's rungs are counted in these, not in steps.
            if len(steps) not in known:
                trial.report(math.nan if value is None else value, len(steps))
                prunes.append(trial.should_prune())
        return any(prunes)

    def _prune(self, run: PlannedRun) -> str:
        # Before its process ends: if this one dies in between, the trial stays pruned.
        self._tell(run, "pruned", state=self._state.PRUNED)
        return "pruned"

    def _value(self, run: PlannedRun) -> float:
        records, _ = read_records(run.workdir)
        if not any(self._search.metric in record for record in records):
            names = sorted({name for r in records for name in r if name.startswith("eval/")})
            raise UserError(
                f"search: metric={self._search.metric!r} is not logged by {run.workdir}; choose "
                f"{', '.join(names)}, and another --workdir"
            )
        for record in records:  # Those that came after the board looked last.
            self._note(run, record)
        value = board_lib.last_metric(records, self._search.metric)
        worst = math.inf if self._search.mode == "min" else -math.inf
        return worst if value is None else value  # NaN, which JSON has as null, ranks last.

    def _tell(self, run: PlannedRun, kind: str, **outcome) -> None:
        for trial in self._open.pop(run.name):
            self._study.tell(trial, **outcome)
            self.kinds.append(kind)
        self._steps.pop(run.name, None)  # A later trial that is equal is told of all evaluations.


def _open_study(search: Search, base: PlannedRun, folder: pathlib.Path):
    """Opens the study of a folder: a new one, or that of this very search."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pruner = optuna.pruners.NopPruner()
    if search.pruner == "halving":
        pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=_REDUCTION)
    path = folder / JOURNAL
    try:
        _drop_half_line(path)
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        study = optuna.create_study(
            study_name="search",
            storage=optuna.storages.JournalStorage(backend),
            pruner=pruner,
            direction={"min": "minimize", "max": "maximize"}[search.mode],
            load_if_exists=True,
        )
    except (ValueError, TypeError, LookupError, AssertionError, IsADirectoryError) as error:
        raise UserError(
            f"{path} is damaged: {type(error).__name__}: {error}; restore it, or name another "
            "--workdir"
        ) from None
    # A search may be given more trials, and nothing else.
    identity = dataclasses.asdict(search) | {"base": base.name, "num_trials": None}
    identity = json.loads(json.dumps(identity))  # As the journal gives it back: no tuples.
    if study.user_attrs.setdefault("search", identity) != identity:
        there = study.user_attrs["search"]
        # What another version searched may have keys that this one lacks, and lack some of its own.
        key = next(key for key in [*identity, *there] if there.get(key) != identity.get(key))
        raise UserError(
            f"--workdir={folder} holds another search: {key} is {there.get(key)!r} there, "
            f"{identity.get(key)!r} here; choose another --workdir"
        )
    study.set_user_attr("search", identity)
    return study


def _drop_half_line(path: pathlib.Path) -> None:
    """Drops what a process was writing when it was killed; the next line would be joined to it."""
    if path.exists() and (size := path.read_bytes().rfind(b"\n") + 1):
        os.truncate(path, size)


def _make_sampler(search: Search, number: int):
    import optuna

    digest = hashlib.sha256(f"{search.seed} {number}".encode()).digest()
    seed = int.from_bytes(digest[:4], "big")
    if search.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed)


def _draw(trial, key: str, distribution: list | tuple) -> Any:
    if isinstance(distribution, list):
        return trial.suggest_categorical(key, distribution)
    kind, low, high = distribution
    if kind == "integers":
        return trial.suggest_int(key, low, high)
    return trial.suggest_float(key, low, high, log=kind == "log_uniform")
