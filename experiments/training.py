"""What every experiment that trains does alike: workdir, checkpoints, logs, the loop."""

import contextlib
import json
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import ml_collections
import numpy as np

from lm.costs import flops
from lm.errors import UserError
from lm.models.parameters import Params
from lm.parallel import hosts
from lm.run import workdir as workdir_lib
from lm.run.status import DONE, FAILED, METRICS, STOPPED
from lm.settings import choose
from lm.system import faults, manifest, supervisor
from lm.train import disk_room, early_stopping, loop, metric_writers
from lm.train.checkpoints import Checkpoints
from lm.train.monitor import StepFn, StepMonitor
from lm.train.optimizers import evaluation_params
from lm.train.profiling import Profiler
from lm.train.schedules import Schedule
from lm.train.state import TrainState
from lm.train.step_log import StepLog


class StepBatches(Protocol):
    """Batches as a function of the step; see `lm.corpus.batches.Batches`."""

    def rows_at(self, step: int) -> np.ndarray: ...

    def iterate(
        self, first_step: int, end_step: int, shard: int, num_shards: int
    ) -> Iterator[Any]: ...


class Job(NamedTuple):
    """What experiments differ in.

    schedule: learning rate by step.
    abstract: shapes and shardings of the state.
    first_state: makes the state before the first step.
    part: which of how many parts of each batch this process reads.
    evaluate: params -> metrics by name, "eval/loss" among them.
    describe: prints what is about to be trained.
    finish: called when training is complete, with the checkpoints and the last state.
    sample: params -> text for the logs; None for none.
    kept: what each checkpoint's host data holds besides, and must hold when a run goes on.
    command: for provenance.json, what gives this run; None for the command of this process.
    extend: whether the run may have been shorter until now.
    """

    schedule: Schedule
    abstract: TrainState
    first_state: Callable[[], TrainState]
    batches: StepBatches
    part: tuple[int, int]
    evaluate: Callable[[Params], dict[str, float]]
    save_tokenizer: Callable[[pathlib.Path], None]
    data_hash: str
    flops_per_token: float
    describe: Callable[[], None]
    finish: Callable[[Checkpoints, TrainState], None]
    sample: Callable[[Params], str] | None
    kept: dict[str, Any]
    command: Sequence[str] | None = None
    extend: bool = False


def check(
    config: ml_collections.ConfigDict,
    metrics: tuple[str, ...],
    profile_steps: tuple[int, int] | None,
) -> None:
    """Whether the rhythm of a run makes sense, before its data is read.

    Args:
      config: of a training experiment; `train.num_steps` is set.
      metrics: what an evaluation gives, among which the best checkpoint may be chosen.
      profile_steps: first and last step to trace.

    Raises:
      UserError: a choice that cannot be followed.
    """
    name, mode = config.checkpoint.best_metric, config.checkpoint.best_mode
    save_every, eval_every = config.checkpoint.every_steps, config.eval.every_steps
    choose("checkpoint.best_mode", mode, early_stopping.MODES)
    if name not in ("", *metrics):
        raise UserError(
            f"checkpoint.best_metric={name!r} is unknown; choose {', '.join(metrics)}, or '' for "
            "none"
        )
    if name and (not eval_every or save_every % eval_every):
        raise UserError(
            f"checkpoint.best_metric={name} needs a metric at every save: make "
            f"checkpoint.every_steps={save_every} a multiple of eval.every_steps={eval_every}"
        )
    if config.train.patience and not name:
        raise UserError(
            f"train.patience={config.train.patience} waits for checkpoint.best_metric to improve, "
            "and none is set"
        )
    if profile_steps and not 1 <= profile_steps[0] <= profile_steps[1] <= config.train.num_steps:
        first, last = profile_steps
        raise UserError(
            f"--profile={first}:{last} are not steps of this run: 1 to {config.train.num_steps}"
        )
    metric_writers.check_wandb(config.log.wandb_project)


def train(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    job: Job,
    step_fn: StepFn,
    *,
    given: dict[str, Any],
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains to the end of the config, going on from the newest checkpoint in `workdir`.

    Returns 0, or 75 when a signal ended it early, after saving.

    Args:
      config: with `train.num_steps`.
      workdir: need not exist.
      job: what is to be trained.
      step_fn: (state, batch) -> (state, metrics), compiled.
      given: the config that the workdir belongs to.
      profile_steps: first and last step to trace.

    Raises:
      UserError: before anything is written, for a workdir that cannot be used.
    """
    with (
        RunLifecycle(config, workdir, job, given=given) as running,
        loop.stop_on_signals() as stop_requested,
    ):
        state = running.start()
        first_step = int(state.step)
        batches = job.batches.iterate(first_step, running.num_steps, *job.part)
        with Profiler(workdir / "profile", profile_steps) as profiler:
            if not running.is_over():
                state = loop.fit(
                    state,
                    running.observation.step_fn(step_fn),
                    profiler.watch(running.observation.batches(batches), first_step + 1),
                    num_steps=running.num_steps,
                    report=running.report,
                    hooks=[
                        loop.Hook(config.eval.every_steps, running.evaluate),
                        loop.Hook(config.checkpoint.every_steps, running.save),
                    ],
                    stop_requested=lambda step: stop_requested(step) or running.is_over(),
                )
        return running.end(state)


class RunLifecycle:
    """A run from its start to its end: its folder, checkpoints and logs, all but the training.

    A context manager, inside which no other process can have the folder.

    Its `observation` watches what trains it; `progress` counts.

    Args:
      config, workdir, job, given: see `train`.

    Raises:
      UserError: the folder cannot be used, also when it is entered.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        job: Job,
        *,
        given: dict[str, Any],
    ):
        policy = {k: v for k, v in config.checkpoint.items() if k != "every_steps"}
        self._checkpoints = Checkpoints(workdir / "checkpoints", **policy)
        self.num_steps = config.train.num_steps
        needed = self._checkpoints.bytes_needed(
            job.abstract, num_steps=self.num_steps, every_steps=config.checkpoint.every_steps
        )
        disk_room.check(workdir, needed)
        self.observation = StepMonitor()
        self._config, self._workdir, self._job, self._given = config, workdir, job, given
        self._metrics: dict[int, dict[str, float]] = {}
        self._all, self._logs = contextlib.ExitStack(), contextlib.ExitStack()
        self._writers: metric_writers.Writers | None = None

    def __enter__(self) -> "RunLifecycle":
        with contextlib.ExitStack() as stack:
            stack.enter_context(_opened(self._workdir, self._given, self._job))
            stack.push(self._note_failure)  # Behind the logs, and while the folder is ours.
            stack.enter_context(self._checkpoints)
            stack.enter_context(self.observation)
            stack.push(self._logs)
            self._all = stack.pop_all()
        return self

    def __exit__(self, *error) -> bool | None:
        return self._all.__exit__(*error)

    def _note_failure(self, kind: type[BaseException] | None, *_) -> None:
        has_run = self._writers is not None or not (self._workdir / METRICS).exists()
        if kind is not None and issubclass(kind, Exception) and has_run:
            with contextlib.suppress(OSError):  # The error may be that nothing can be written.
                metric_writers.mark(self._workdir, FAILED)

    def start(self) -> TrainState:
        """Says what is about to be trained, and opens the logs; the state to go on from."""
        self._job.describe()
        state, host = _start(self._job, self._checkpoints, self._workdir)
        self._saved = {int(state.step)}
        self._history = early_stopping.EarlyStopping(
            host["evaluations"],
            mode=self._config.checkpoint.best_mode,
            patience=self._config.train.patience,
        )
        self._writers = self._logs.enter_context(
            metric_writers.opened(
                self._workdir,
                step=int(state.step),
                num_steps=self.num_steps,
                config=self._given,
                wandb_project=self._config.log.wandb_project,
            )
        )
        self.progress = StepLog(
            self._writers.scalars,
            lambda step, metrics: (
                hosts.is_first() and _record_skip(self._workdir, self._job.batches, step, metrics)
            ),
            every_steps=self._config.log.every_steps,
            num_steps=self.num_steps,
            max_skipped=self._config.train.max_skipped,
            num_tokens=host["num_tokens"],
            flops_per_token=self._job.flops_per_token,
            peak_flops=flops.total_peak_flops(jax.devices()),
            schedule=self._job.schedule,
            observation=self.observation,
        )
        return state

    def report(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Takes the metrics of a step."""
        self.progress(step, {name: float(value) for name, value in metrics.items()})

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates, and logs what comes out."""
        params = evaluation_params(state.params, state.opt_state)
        with self.progress.paused():
            metrics = self._job.evaluate(params)
        self.take_evaluation(step, params, metrics)

    def take_evaluation(self, step: int, params: Params, metrics: dict[str, float]) -> None:
        """Logs what an evaluation of these parameters gave, a sample of text included."""
        self._metrics[step] = metrics
        with self.progress.paused():
            self._writers.scalars(step, metrics)
            if self._job.sample is not None:
                self._writers.text(step, "sample", self._job.sample(params))
        if self._config.checkpoint.best_metric:
            self._history.add(step, metrics[self._config.checkpoint.best_metric])

    def save(self, step: int, state: TrainState) -> None:
        """Saves a checkpoint, in the background."""
        with self.progress.paused():
            host = {"num_tokens": self.progress.num_tokens, "evaluations": self._history.values}
            metrics = self._metrics.get(step, {})
            self._checkpoints.save(step, state, host | self._job.kept, metrics)
            self._saved.add(step)

    def is_over(self) -> bool:
        """Whether it need not be trained to its last step, because it gets no better."""
        return self._history.is_over()

    def end(self, state: TrainState) -> int:
        """Saves what is not saved yet, and finishes what is complete; the exit code."""
        step = int(state.step)
        if step < self.num_steps and step not in self._saved:
            self.save(step, state)
        self._logs.close()
        self._checkpoints.wait()
        if step < self.num_steps and not self.is_over():
            metric_writers.mark(self._workdir, STOPPED, step)
            print(f"stopped at step {step} and saved; the same command goes on", flush=True)
            return supervisor.STOPPED
        if step < self.num_steps:
            print(
                f"stopped early at step {step}: {self._config.checkpoint.best_metric} was best at "
                f"step {self._history.best_step()}, {self._config.train.patience} evaluations "
                "before",
                flush=True,
            )
        self._job.finish(self._checkpoints, state)
        metric_writers.mark(self._workdir, DONE, step)
        return 0


@contextlib.contextmanager
def _opened(workdir: pathlib.Path, given: dict[str, Any], job: Job) -> Iterator[None]:
    """The workdir, which the first process has to itself, with the tokenizer in it."""
    hosts.check_same("data", {"hash": job.data_hash})
    with contextlib.ExitStack() as stack:
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(
                    workdir_lib.opened(
                        workdir,
                        given,
                        data_hash=job.data_hash,
                        command=job.command,
                        extend=job.extend,
                    )
                )
                job.save_tokenizer(workdir / "tokenizer")
                manifest.write(workdir / "tokenizer")
        yield


def _start(job: Job, checkpoints: Checkpoints, workdir: pathlib.Path) -> tuple[TrainState, dict]:
    """The state to go on from, and what was kept beside it."""
    restored = checkpoints.restore(job.abstract)
    if restored is None:
        return job.first_state(), {"num_tokens": 0, "evaluations": []}
    step, state, host = restored
    print(f"continuing from step {step}", flush=True)
    for name, value in job.kept.items():
        if host[name] != value:
            raise UserError(f"--workdir={workdir} was trained with other {name}")
    return state, host


def check_finite(metrics: dict[str, float], names: tuple[str, ...], on_error: str) -> None:
    """Whether an evaluation gave numbers.

    Args:
      metrics: by name.
      names: of those that must be numbers.
      on_error: "raise", or "skip" to print a line and go on.

    Raises:
      UserError: one is NaN or infinite, and `on_error` is "raise".
    """
    odd = [name for name in names if not math.isfinite(metrics[name])]
    if not odd:
        return
    problem = f"{odd[0]}={metrics[odd[0]]}: the model's outputs or the labels do not define it"
    if on_error == "raise":
        raise UserError(f"{problem}; lower optimizer.peak_lr, or set data.on_error=skip to go on")
    print(problem, flush=True)


def _record_skip(workdir: pathlib.Path, batches: StepBatches, step: int, metrics: dict) -> None:
    """Notes the rows of a batch whose loss or gradient was not finite."""
    record = {"step": step, "rows": batches.rows_at(step - 1).tolist()} | {
        name: repr(metrics[name]) for name in ("loss", "grad_norm")
    }
    path = workdir / "skipped.jsonl"
    with faults.naming(path), path.open("a") as file:
        file.write(json.dumps(record) + "\n")
