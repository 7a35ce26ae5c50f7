"""The interface that pretraining and fine-tuning share: what a run trains."""

import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import ml_collections
import numpy as np

from lm.models.parameters import Params
from lm.train.checkpoints import Checkpoints
from lm.train.schedules import Schedule
from lm.train.step import StepFn, TrainState


class StepBatches(Protocol):
    """Batches as a function of the step; see `lm.corpus.batches.Batches`."""

    def rows_at(self, step: int) -> np.ndarray: ...

    def iterate(
        self, first_step: int, end_step: int, shard: int, num_shards: int
    ) -> Iterator[Any]: ...


class Experiment(Protocol):
    """Holds all that pretraining and fine-tuning differ in."""

    config: ml_collections.ConfigDict  # Complete, with `train.num_steps`.
    workdir: pathlib.Path  # Need not exist.
    schedule: Schedule  # Learning rate by step.
    abstract: TrainState  # Shapes and shardings of the state.
    batches: StepBatches  # Those of training, on the host.
    shard: tuple[int, int]  # Which shard of each batch this process reads, and of how many.
    data_hash: str  # Changes with the data and its tokenizer.
    flops_per_token: float  # For model FLOPs utilisation.
    # What each checkpoint's host data holds besides, and must hold when a run goes on.
    kept: dict[str, Any]
    command: Sequence[str] | None  # For provenance.json, what gives this run; None: sys.argv.
    extend: bool  # Whether the run may have been shorter until now.

    def save_tokenizer(self, folder: pathlib.Path) -> None:
        """Writes the tokenizer of the data."""

    def describe(self) -> None:
        """Prints what is about to be trained."""

    def progress(self, step: int) -> dict[str, float]:
        """Returns what else is logged of a step, by metric name."""

    def first_state(self) -> TrainState:
        """Makes the state before the first step: of `init_from`, or random."""

    def compiled_step(self) -> tuple[StepFn, Callable[[Any], Any]]:
        """Returns the step, its key bound, and what places a batch for it; see `compile_step`."""

    def evaluate(self, step: int, params: Params) -> dict[str, float]:
        """Returns metrics by name, "eval/loss" among them, of the parameters after a step."""

    def sample(self, params: Params) -> str | None:
        """Returns text for the logs, if any."""

    def finish(self, checkpoints: Checkpoints, state: TrainState) -> None:
        """Reports a training that is complete, given its last state."""
