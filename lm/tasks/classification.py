"""Classification of texts and pairs of texts, with one label or several, and regression.

Dimension key:
  B batch    L length    E texts of a row    S labels    N examples
"""

import abc
import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.data.examples import Features
from lm.data.records import Record
from lm.errors import UserError
from lm.losses import likelihood
from lm.losses.likelihood import Sums
from lm.metrics import averages, classification, regression
from lm.models import heads
from lm.models.families import Family
from lm.models.parameters import Params
from lm.tasks.labels import field, index_of, label_of, labels_of
from lm.tasks.task import (
    SAMPLE_TEXT,
    Batch,
    DropoutKey,
    Prediction,
    Predictions,
    RecordOutputs,
    Records,
    Report,
    Scores,
    TaskObjective,
    apply,
)
from lm.tasks.text import TextInputs, lengths_of, needs_fields, text_field

_POOLS = {
    "encoder": lambda dtype: heads.FirstToken(dtype),
    "decoder": lambda dtype: heads.last_token,
    "encoder_decoder": lambda dtype: heads.mean,
}


class Target(Report, Protocol):
    """What a model says of a text, from `num_outputs` numbers."""

    num_outputs: int

    @abc.abstractmethod
    def features(self, record: Record) -> Features: ...  # Beside those of its texts.

    @abc.abstractmethod
    def loss(self, logits_BES: jax.Array, batch: Batch) -> Sums: ...

    @abc.abstractmethod
    def output(self, logits_BES: jax.Array) -> jax.Array: ...  # B x E x S, for predictions.

    @abc.abstractmethod
    def prediction(self, output_S: np.ndarray) -> Prediction: ...  # Of one example.


@dataclasses.dataclass(frozen=True)
class TextHead(TaskObjective):
    """Learns a target by a head on the body of a family."""

    inputs: TextInputs
    target: Target

    def module(self, family: Family, model_config: Any) -> nn.Module:
        pool = _POOLS[family.architecture](jnp.dtype(model_config.dtype))
        return heads.SequenceHead(family.body(model_config), pool, self.target.num_outputs)

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        empty = self.inputs.empty()
        return model.init(key, self.inputs.inputs(empty), lengths_of(empty))["params"]

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        if self.inputs.family.architecture == "decoder":
            # It stays 0, since heads of `transformers` have none there: they could not hold it.
            bias_S = jax.lax.stop_gradient(params["head"]["bias"])
            params = {**params, "head": {**params["head"], "bias": bias_S}}
        return self.target.loss(self._logits(model, params, batch, dropout_key), batch)

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        return {"output_BES": self.target.output(self._logits(model, params, batch, None))}

    def _logits(
        self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey
    ) -> jax.Array:
        inputs = self.inputs.inputs(batch), lengths_of(batch)
        return apply(model, params, dropout_key, *inputs)


class TextTask:
    """Predicts a target for one text, or for two in fields `text` and `pair`; a `Task`.

    `pair` is "" for single texts.
    """

    def __init__(self, inputs: TextInputs, target: Target, *, text: str, pair: str):
        self.metrics, self.notes = target.metrics, inputs.notes
        self.layout = inputs.layout("L")
        self.gold, self.score, self.baselines = target.gold, target.score, target.baselines
        self.pictures, self.by_label = target.pictures, target.by_label
        self.objective = TextHead(inputs, target)
        self._inputs, self._target = inputs, target
        self._fields = [text, pair] if pair else [text]

    def encode(self, record: Record) -> list[Features]:
        features = self._target.features(record)
        (read,) = self.read(record)
        return [read | features | {"weight_B": 1.0}]  # Rows that fill up a batch have 0.

    def read(self, record: Record) -> list[Features]:
        texts = [text_field(record.name, record.fields, key) for key in self._fields]
        return [self._inputs.encode(record.name, texts)]

    def from_text(self, name: str, text: str) -> Record:
        if len(self._fields) > 1:
            raise needs_fields(name, *self._fields)
        return Record(name, {self._fields[0]: text})

    def sample(self) -> Record:
        return Record("sample", dict.fromkeys(self._fields, SAMPLE_TEXT))

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        return [self._target.prediction(example["output_BES"]) for (example,) in outputs]


class _Labels(Target):
    """A target whose outputs are labels, each with its own weight.

    Args:
      labels: in the order of the outputs.
      class_weights: one for each label; the loss is then a weighted mean.
      label: the field that holds one label, or several; see `labels_of`.
    """

    kind: str

    def __init__(self, *, labels: Sequence[str], class_weights: Sequence[float], label: str):
        self.num_outputs = len(labels)
        self._labels, self._label = list(labels), label
        self._index = index_of(self.kind, labels)
        self._weights_S = np.asarray(class_weights, np.float32)

    def _known(self, record: Record, label: str) -> int:
        """Returns the index of a label that training knows."""
        if label not in self._index:
            raise UserError(
                f"{record.name}: the label {label!r} is none of training's: "
                f"{', '.join(self._index)}"
            )
        return self._index[label]

    def _probabilities(self, output_S: np.ndarray) -> dict[str, float]:
        return {label: round(float(x), 6) for label, x in zip(self._labels, output_S, strict=True)}


class OneLabel(_Labels):
    """One label out of S: softmax cross-entropy, its examples weighted by their class."""

    metrics, kind = classification.SINGLE_LABEL, "classification"

    def features(self, record: Record) -> Features:
        return {"label_B": self._known(record, label_of(record, self._label))}

    def loss(self, logits_BES: jax.Array, batch: Batch) -> Sums:
        label_BE = batch["label_BE"]
        # As PyTorch's weighted loss does, both sums have the weights: the mean's divisor too.
        weight_BE = batch["weight_BE"] * jnp.asarray(self._weights_S)[label_BE]
        return likelihood.cross_entropy(logits_BES, label_BE, weight_BE)

    def output(self, logits_BES: jax.Array) -> jax.Array:
        return jax.nn.softmax(logits_BES)

    def prediction(self, output_S: np.ndarray) -> Prediction:
        label = self._labels[int(np.argmax(output_S))]
        probabilities = self._probabilities(output_S)
        best = {"label": label, "probability": probabilities[label]}
        return best | {"probabilities": probabilities}

    def gold(self, record: Record) -> Prediction:
        return {"label": self._labels[self._known(record, label_of(record, self._label))]}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        return classification.single_label(self._confusion(records, predictions))

    def by_label(self, records: Records, predictions: Predictions) -> dict[str, Scores]:
        counts_SS = self._confusion(records, predictions)
        counts = counts_SS.diagonal(), counts_SS.sum(0), counts_SS.sum(1)
        return averages.by_label(self._labels, *counts)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        counts = collections.Counter(self.gold(record)["label"] for record in train)
        label = max(self._labels, key=counts.__getitem__)  # Of equal counts the first in order.
        share = round(counts[label] / len(train), 6)
        return {"the commonest label": [{"label": label, "probability": share}] * len(records)}

    def pictures(self, records: Records, predictions: Predictions) -> dict[str, str]:
        counts_SS = self._confusion(records, predictions)
        return {"confusion.svg": classification.confusion_svg(counts_SS, self._labels)}

    def _confusion(self, records: Records, predictions: Predictions) -> np.ndarray:
        """Counts S x S, gold labels by predicted ones."""
        gold_N = np.array([self._index[self.gold(record)["label"]] for record in records])
        predicted_N = np.array([self._index[p["label"]] for p in predictions])
        return classification.confusion(gold_N, predicted_N, self.num_outputs)


class ManyLabels(_Labels):
    """Any number of S labels: sigmoid cross-entropy; predicts those that are likelier than not."""

    metrics, kind = classification.MULTI_LABEL, "multi_label"

    def features(self, record: Record) -> Features:
        labels_S = np.zeros(self.num_outputs, np.float32)
        labels_S[[self._index[label] for label in self.gold(record)["labels"]]] = 1
        return {"labels_BS": labels_S}

    def loss(self, logits_BES: jax.Array, batch: Batch) -> Sums:
        # `collate` pads this dimension, as if it were a length, to a multiple.
        labels_BES = batch["labels_BES"][:, :, : self.num_outputs]
        # -log sigmoid(-x) is -log(1 - sigmoid(x)), without its overflow for large x.
        signed_BES = jnp.where(labels_BES > 0, logits_BES, -logits_BES)
        weights_BES = batch["weight_BE"][:, :, None] * jnp.asarray(self._weights_S)[None, None]
        nll = -jnp.sum(jax.nn.log_sigmoid(signed_BES) * weights_BES)
        return {"loss": nll, "nll": nll, "num_tokens": jnp.sum(weights_BES)}

    def output(self, logits_BES: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(logits_BES)

    def prediction(self, output_S: np.ndarray) -> Prediction:
        chosen = [label for label, x in zip(self._labels, output_S, strict=True) if x > 0.5]
        return {"labels": chosen, "probabilities": self._probabilities(output_S)}

    def gold(self, record: Record) -> Prediction:
        labels = labels_of(record, self._label, self._labels)
        return {"labels": [self._labels[self._known(record, label)] for label in labels]}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        return classification.multi_label(*self._one_hot(records, predictions))

    def by_label(self, records: Records, predictions: Predictions) -> dict[str, Scores]:
        gold_NS, predicted_NS = self._one_hot(records, predictions)
        counts = (gold_NS & predicted_NS).sum(0), predicted_NS.sum(0), gold_NS.sum(0)
        return averages.by_label(self._labels, *counts)

    def _one_hot(self, records: Records, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Returns N x S booleans, of gold and of predictions."""
        one_hot = lambda labels: [name in labels for name in self._labels]
        gold_NS = np.array([one_hot(self.gold(record)["labels"]) for record in records])
        return gold_NS, np.array([one_hot(p["labels"]) for p in predictions])

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        counts = collections.Counter(x for record in train for x in self.gold(record)["labels"])
        often = [name for name in self._labels if counts[name] > len(train) / 2]
        shares = {name: round(counts[name] / len(train), 6) for name in self._labels}
        prediction = {"labels": often, "probabilities": shares}
        return {"labels of most examples": [prediction] * len(records)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Number(Target):
    """One number: the squared error."""

    metrics = regression.REGRESSION
    num_outputs = 1
    label: str  # The field that holds it.

    def features(self, record: Record) -> Features:
        return {"target_B": np.float32(self.gold(record)["value"])}

    def loss(self, logits_BES: jax.Array, batch: Batch) -> Sums:
        error_BE = logits_BES[:, :, 0] - batch["target_BE"]
        squares = jnp.sum(jnp.square(error_BE) * batch["weight_BE"])
        return {"loss": squares, "nll": squares, "num_tokens": jnp.sum(batch["weight_BE"])}

    def output(self, logits_BES: jax.Array) -> jax.Array:
        return logits_BES

    def prediction(self, output_S: np.ndarray) -> Prediction:
        return {"value": float(output_S[0])}

    def gold(self, record: Record) -> Prediction:
        value = field(record, self.label)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not abs(number) <= float(np.finfo(np.float32).max):  # Nor is NaN.
            raise UserError(f"{record.name}: {self.label}={value!r} is no number to learn")
        return {"value": number}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        gold_N = np.array([self.gold(record)["value"] for record in records])
        predicted_N = np.array([p["value"] for p in predictions])
        return regression.regression(gold_N, predicted_N)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        mean = math.fsum(self.gold(record)["value"] for record in train) / len(train)
        return {"the mean": [{"value": mean}] * len(records)}


def balanced_weights(counts: dict[str, int]) -> list[float]:
    """Returns weights by which each class counts as much as any other: n / (S * count).

    Counts of 30 and 10 give 0.67 and 2 (King and Zeng 2001, section 4).
    """
    total = sum(counts.values())
    return [total / (len(counts) * count) for count in counts.values()]
