"""What fine-tuning must know of a task; one class of this shape a task.

Dimension key: B batch.
"""

import collections
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import numpy as np
from flax import linen as nn

from lm.data.examples import Features
from lm.data.records import Record
from lm.errors import UserError
from lm.losses.likelihood import Sums
from lm.models.families import Family
from lm.models.parameters import Params

# Compact: a few numbers an example, on the host.
Outputs = dict[str, np.ndarray]


class UnfitFamily(UserError):
    """No model of this family can do the task."""


class Task(Protocol):
    """A task on labelled records.

    metrics: the names that `score` gives in any case; the first is what most papers report.
    fill: what fills up a batch; see `examples.collate`.
    notes: what was counted on the way, such as examples that were cut, by what it is called.
    """

    metrics: tuple[str, ...]
    fill: dict[str, float]
    notes: collections.Counter[str]

    def encode(self, record: Record) -> list[Features]:
        """The examples of a record, mostly one.

        Raises:
          UserError: the record does not suit the task, by its name.
        """

    def read(self, record: Record) -> list[Features]:
        """As `encode`, of a record without labels; none where the model writes its prediction.

        Raises:
          UserError: the record lacks what the task reads, by its name.
        """

    def from_text(self, name: str, text: str) -> Record:
        """A record without labels, of nothing but a text.

        Raises:
          UserError: the task reads more than one text.
        """

    def module(self, family: Family, model_config: Any) -> nn.Module:
        """The model: a head on the body of a family."""

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        """Random parameters; under `jax.eval_shape`, their shapes."""

    def loss(self, model: nn.Module, params: Params, batch, dropout_key: jax.Array | None) -> Sums:
        """Summed loss and the number of targets; without a key there is no dropout."""

    def outputs(self, model: nn.Module, params: Params, batch) -> dict[str, jax.Array]:
        """What predictions are made of, arrays with a leading B."""

    def predictions(
        self,
        records: Sequence[Record],
        outputs: Sequence[Sequence[Outputs]],
        model: nn.Module,
        params: Params,
    ) -> list[Any]:
        """One prediction a record, as JSON has it, from the outputs of each of its examples."""

    def score(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, float]:
        """Metrics by name."""

    def by_label(
        self, records: Sequence[Record], predictions: Sequence[Any]
    ) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and support of each label; none where there are no labels."""

    def gold(self, record: Record) -> Any:
        """What a prediction should have been, as JSON has it."""

    def baselines(self, train: Sequence[Record], records: Sequence[Record]) -> dict[str, list[Any]]:
        """Predictions that take no model, by what they are called."""

    def pictures(self, records: Sequence[Record], predictions: Sequence[Any]) -> dict[str, str]:
        """SVG by file name, as far as the task has any."""
