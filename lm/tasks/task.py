"""Protocols of a task of fine-tuning: what its model does, and what people see of it.

Dimension key: B batch.
"""

import abc
import collections
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import linen as nn

from lm.data.examples import Features, RowLayout
from lm.data.records import Record
from lm.errors import UserError
from lm.losses.likelihood import Sums
from lm.models.families import Family
from lm.models.parameters import Params

SAMPLE_TEXT = "a 1 一"  # Of which some tokenizers keep but a part.
Batch = Mapping[str, jax.Array]  # Features of examples, by name, each with a leading B.
Outputs = Mapping[str, np.ndarray]  # Compact: a few numbers an example, on the host.
Prediction = dict[str, Any]
Scores = dict[str, float]
Records, Predictions = Sequence[Record], Sequence[Prediction]
RecordOutputs = Sequence[Sequence[Outputs]]  # Of each record those of its examples.
DropoutKey = jax.Array | None  # Without one there is no dropout.


class UnfitFamily(UserError):
    """No model of this family can do the task."""


class TaskObjective(Protocol):
    """What the model of a task does: four methods, which a new kind of loss brings."""

    @abc.abstractmethod
    def module(self, family: Family, model_config: Any) -> nn.Module:
        """Makes the model, such as a head on the body of a family."""

    @abc.abstractmethod
    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        """Draws random parameters; gives their shapes under `jax.eval_shape`."""

    @abc.abstractmethod
    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        """Sums the loss and the number of targets; without a key there is no dropout."""

    @abc.abstractmethod
    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Computes what predictions are made of, arrays with a leading B."""


class Report(Protocol):
    """What people see of predictions, each of which is an object as JSON has it."""

    metrics: tuple[str, ...]  # What `score` gives in any case; the first is what papers report.

    @abc.abstractmethod
    def gold(self, record: Record) -> Prediction:
        """Returns what a prediction should have been."""

    @abc.abstractmethod
    def score(self, records: Records, predictions: Predictions) -> Scores:
        """Computes metrics by name."""

    def by_label(self, records: Records, predictions: Predictions) -> dict[str, Scores]:
        """Computes precision, recall, F1 and support of each label, where there are labels."""
        return {}

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        """Makes predictions that take no model, by what they are called."""
        return {}

    def pictures(self, records: Records, predictions: Predictions) -> dict[str, str]:
        """Draws SVG by file name, as far as the task has any."""
        return {}


class Task(Report, Protocol):
    """A task on labelled records: what its examples hold, what learns them, and what people see."""

    layout: RowLayout  # How examples stand in the rows of a batch.
    notes: collections.Counter[str]  # What was counted on the way, such as examples that were cut.
    objective: TaskObjective

    @abc.abstractmethod
    def encode(self, record: Record) -> list[Features]:
        """Makes the examples of a record, mostly one; raises UserError where it does not suit."""

    @abc.abstractmethod
    def read(self, record: Record) -> list[Features]:
        """Does as `encode` for a record without labels; gives none where the model writes.

        Raises UserError where the record lacks what the task reads.
        """

    @abc.abstractmethod
    def from_text(self, name: str, text: str) -> Record:
        """Makes a record of a text alone; raises UserError where the task reads more than one."""

    def sample(self) -> Record:
        """Makes a record that can be read, whatever stands in it."""
        return self.from_text("sample", SAMPLE_TEXT)

    @abc.abstractmethod
    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        """Makes one prediction a record, from the outputs of each of its examples."""


def apply(
    model: nn.Module, params: Params, dropout_key: DropoutKey, *inputs: Any, **more: Any
) -> Any:
    """Calls a model on its inputs; without a key there is no dropout."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return model.apply({"params": params}, *inputs, deterministic=rngs is None, rngs=rngs, **more)
