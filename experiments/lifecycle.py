"""The lifecycle of a run that trains: its workdir, checkpoints, evaluations and logs."""

import contextlib
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from experiments.experiment import Experiment, StepBatches
from lm.costs import flops
from lm.errors import UserError
from lm.models.parameters import Params
from lm.parallel import hosts
from lm.run import workdir as workdir_lib
from lm.run.status import DONE, FAILED, METRICS, STOPPED
from lm.system import faults, manifest, supervisor
from lm.train import disk_room, early_stopping, metric_writers
from lm.train.checkpoints import Checkpoints
from lm.train.monitor import StepMonitor
from lm.train.optimizers import evaluation_params
from lm.train.step import TrainState
from lm.train.step_log import StepLog


class RunLifecycle:
    """Workdir, checkpoints and logs of one run; the caller trains.

    A context manager, inside which no other process can have the workdir. Entering it says what is
    trained, and gives the lifecycle and the state to go on from. Its `monitor` watches the batches;
    `progress` counts.

    Raises:
      UserError: the workdir cannot be used, also when it is entered.
    """

    def __init__(self, experiment: Experiment, requested_config: dict[str, Any]):
        config, workdir = experiment.config, experiment.workdir
        # `every_steps` is for the loop.
        policy = {k: v for k, v in config.checkpoint.items() if k != "every_steps"}
        self._checkpoints = Checkpoints(workdir / "checkpoints", **policy)
        self.num_steps = config.train.num_steps
        needed = self._checkpoints.bytes_needed(
            experiment.abstract, num_steps=self.num_steps, every_steps=config.checkpoint.every_steps
        )
        disk_room.check(workdir, needed)
        self.monitor = StepMonitor()
        self._config, self._workdir, self._experiment = config, workdir, experiment
        self._requested_config = requested_config
        self._metrics: dict[int, dict[str, float]] = {}
        self._all, self._logs = contextlib.ExitStack(), contextlib.ExitStack()
        self._writers: metric_writers.Writers | None = None

    def __enter__(self) -> tuple["RunLifecycle", TrainState]:
        experiment, config = self._experiment, self._config
        with contextlib.ExitStack() as stack:
            stack.enter_context(_opened(self._workdir, self._requested_config, experiment))
            stack.push(self._note_failure)  # Behind the logs, and while the folder is ours.
            stack.enter_context(self._checkpoints)
            stack.enter_context(self.monitor)
            stack.push(self._logs)  # `end` has closed them, unless an error comes before it.
            experiment.describe()
            state, host = _start(experiment, self._checkpoints, self._workdir)
            self._saved = {int(state.step)}
            self._history = early_stopping.EarlyStopping(
                host["evaluations"],
                mode=config.checkpoint.best_mode,
                patience=config.train.patience,
            )
            self._writers = self._logs.enter_context(
                metric_writers.opened(
                    self._workdir,
                    step=int(state.step),
                    num_steps=self.num_steps,
                    config=self._requested_config,
                    wandb_project=config.log.wandb_project,
                )
            )
            self.progress = StepLog(
                lambda step, scalars: self._writers.scalars(
                    step, scalars | experiment.progress(step)
                ),
                lambda step, metrics: (
                    hosts.is_first()
                    and _record_skip(self._workdir, experiment.batches, step, metrics)
                ),
                every_steps=config.log.every_steps,
                num_steps=self.num_steps,
                max_skipped=config.train.max_skipped,
                num_tokens=host["num_tokens"],
                flops_per_token=experiment.flops_per_token,
                peak_flops=flops.total_peak_flops(jax.devices()),
                schedule=experiment.schedule,
                monitor=self.monitor,
            )
            self._all = stack.pop_all()  # An error until here has closed all of it.
        return self, state  # Not kept: the first step donates its buffers.

    def __exit__(self, *error) -> bool | None:
        return self._all.__exit__(*error)

    def _note_failure(self, kind: type[BaseException] | None, *_) -> None:
        # A run that failed before its logs were open is as it was, unless it has none yet.
        has_run = self._writers is not None or not (self._workdir / METRICS).exists()
        if kind is not None and issubclass(kind, Exception) and has_run:
            with contextlib.suppress(OSError):  # The error may be that nothing can be written.
                metric_writers.mark(self._workdir, FAILED)

    def report(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """Takes the metrics of a step."""
        self.progress(step, {name: float(value) for name, value in metrics.items()})

    def evaluate(self, step: int, state: TrainState) -> None:
        """Evaluates, and logs what comes out."""
        if not self._metrics:
            print("compiling the evaluation", flush=True)
        with self.progress.paused():
            # The moving average of the parameters, where the optimiser keeps one.
            params = evaluation_params(state.params, state.opt_state)
            metrics = self._experiment.evaluate(step, params)
        self.take_evaluation(step, params, metrics)

    def take_evaluation(self, step: int, params: Params, metrics: dict[str, float]) -> None:
        """Logs what an evaluation of these parameters gave, a sample of text included."""
        self._metrics[step] = metrics
        with self.progress.paused():
            self._writers.scalars(step, metrics)
            if (text := self._experiment.sample(params)) is not None:
                self._writers.text(step, "sample", text)
        if self._config.checkpoint.best_metric:
            self._history.add(step, metrics[self._config.checkpoint.best_metric])

    def save(self, step: int, state: TrainState) -> None:
        """Saves a checkpoint, in the background."""
        with self.progress.paused():
            host = {"num_tokens": self.progress.num_tokens, "evaluations": self._history.values}
            metrics = self._metrics.get(step, {})
            self._checkpoints.save(step, state, host | self._experiment.kept, metrics)
            self._saved.add(step)

    def is_over(self) -> bool:
        """Tells whether the run has stopped early, because it gets no better."""
        return self._history.is_over()

    def end(self, state: TrainState) -> int:
        """Saves what is not saved yet, finishes what is complete, and returns the exit code."""
        step = int(state.step)
        if step < self.num_steps and step not in self._saved:  # The last one is saved by its hook.
            self.save(step, state)
        self._logs.close()
        self._checkpoints.wait()  # Nothing is said to be saved that may still fail.
        if step < self.num_steps and not self.is_over():
            metric_writers.mark(self._workdir, STOPPED, step)
            print(f"stopped at step {step} and saved; the same command goes on", flush=True)
            return supervisor.STOPPED
        if step < self.num_steps:
            best, patience = self._config.checkpoint.best_metric, self._config.train.patience
            print(
                f"stopped early at step {step}: {best} was best at step "
                f"{self._history.best_step()}, {patience} evaluations before",
                flush=True,
            )
        self._experiment.finish(self._checkpoints, state)
        metric_writers.mark(self._workdir, DONE, step)
        return 0


@contextlib.contextmanager
def _opened(
    workdir: pathlib.Path, requested_config: dict[str, Any], experiment: Experiment
) -> Iterator[None]:
    """Holds the workdir, which the first process has to itself, with the tokenizer in it."""
    hosts.check_same("data", {"hash": experiment.data_hash})
    with contextlib.ExitStack() as stack:
        with hosts.together():
            if hosts.is_first():
                stack.enter_context(
                    workdir_lib.opened(
                        workdir,
                        requested_config,
                        data_hash=experiment.data_hash,
                        command=experiment.command,
                        extend=experiment.extend,
                    )
                )
                experiment.save_tokenizer(workdir / "tokenizer")
                manifest.write(workdir / "tokenizer")
        yield


def _start(
    experiment: Experiment, checkpoints: Checkpoints, workdir: pathlib.Path
) -> tuple[TrainState, dict]:
    """Returns the state to go on from, and what was kept beside it."""
    # The first that there is:
    # 1. The newest checkpoint of this workdir, so that the same command always goes on.
    # 2. The parameters of `init_from`, a finished run or a folder of transformers.
    # 3. Random parameters, drawn from the seed.
    if checkpoints.steps():
        print("reading the newest checkpoint", flush=True)
    restored = checkpoints.restore(experiment.abstract)
    if restored is None:
        return experiment.first_state(), {"num_tokens": 0, "evaluations": []}  # 2 or 3.
    step, state, host = restored
    is_done = step >= experiment.config.train.num_steps
    print(f"{'already done at' if is_done else 'continuing from'} step {step}", flush=True)
    for name, value in experiment.kept.items():
        if host[name] != value:
            raise UserError(f"--workdir={workdir} was trained with other {name}")
    return state, host


def _record_skip(workdir: pathlib.Path, batches: StepBatches, step: int, metrics: dict) -> None:
    """Notes the rows of a batch whose loss or gradient was not finite."""
    record = {"step": step, "rows": batches.rows_at(step - 1).tolist()} | {
        name: repr(metrics[name]) for name in ("loss", "grad_norm")
    }
    path = workdir / "skipped.jsonl"
    with faults.naming(path), path.open("a") as file:
        file.write(json.dumps(record) + "\n")
