"""Trains an experiment: the step, the batches and the run's lifecycle meet in the loop here."""

import contextlib
import functools
import math
from typing import Any

import ml_collections

from experiments.experiment import Experiment
from experiments.lifecycle import RunLifecycle
from lm.errors import UserError
from lm.settings import choose
from lm.train import early_stopping, loop, metric_writers, monitor


def train(
    experiment: Experiment,
    *,
    requested_config: dict[str, Any],
    profile_steps: tuple[int, int] | None = None,
) -> int:
    """Trains to the end of the config, going on from the newest checkpoint in `workdir`.

    The workdir records `requested_config`, which lacks what only the data tells, such as the steps
    of an epoch. `profile_steps` are the first and the last to trace. Returns 0, or 75 when a signal
    ended it after saving.

    Raises:
      UserError: before anything is written, for a workdir that cannot be used.
    """
    config, (step_fn, place) = experiment.config, experiment.compiled_step()
    with (
        loop.stop_on_signals() as stop_requested,
        RunLifecycle(experiment, requested_config) as (run, state),
    ):
        # The state is that of the newest checkpoint, or else `experiment.first_state()`.
        start = int(state.step)  # Steps that are done; batches count from 0, reports from 1.
        batches = experiment.batches.iterate(start, run.num_steps, *experiment.shard)
        batches = map(place, run.monitor.batches(batches))  # So placing is not waiting for data.
        folder = experiment.workdir / "profile"
        batches = monitor.profiled(batches, start + 1, folder, profile_steps)
        with contextlib.closing(batches):
            if not run.is_over():  # A run that stopped early may be started once more.
                state = loop.fit(
                    state,
                    step_fn,
                    batches,
                    num_steps=run.num_steps,
                    report=run.report,
                    hooks=[  # In this order, since a checkpoint is saved with its metrics.
                        loop.Hook(config.eval.every_steps, run.evaluate),
                        loop.Hook(config.checkpoint.every_steps, run.save),
                    ],
                    stop_requested=lambda step: stop_requested(step) or run.is_over(),
                    say=functools.partial(print, flush=True),
                )
        return run.end(state)


def check(
    config: ml_collections.ConfigDict,
    metrics: tuple[str, ...],
    profile_steps: tuple[int, int] | None,
) -> None:
    """Checks the intervals of evaluation, checkpoints and logging. Reads no data.

    `train.num_steps` is set, and `metrics` names what an evaluation gives.

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


def check_finite(metrics: dict[str, float], names: tuple[str, ...], on_error: str) -> None:
    """Raises UserError where a metric of these names is no number; `on_error` "skip" prints it."""
    odd = [name for name in names if not math.isfinite(metrics[name])]
    if not odd:
        return
    problem = f"{odd[0]}={metrics[odd[0]]}: the model's outputs or the labels do not define it"
    if on_error == "raise":
        raise UserError(f"{problem}; lower optimizer.peak_lr, or set data.on_error=skip to go on")
    print(problem, flush=True)
