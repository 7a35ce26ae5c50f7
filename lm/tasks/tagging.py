"""Sequence labelling: a tag for each word, by itself or as the likeliest path of a CRF.

Dimension key:
  B batch    L length    E texts of a row    W words    S tags
"""

import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.data.alignment import encode_words, first_pieces, split_words
from lm.data.examples import Features
from lm.data.records import Record
from lm.data.tags import Entity, entities, repair, spelled, split_tag
from lm.errors import UserError
from lm.formats.fields import has, lookup, names_of
from lm.losses import likelihood
from lm.losses.likelihood import Sums
from lm.metrics import averages
from lm.metrics.classification import confusion
from lm.metrics.span_f1 import by_type, entity_metrics
from lm.models import heads
from lm.models.families import Family
from lm.models.parameters import Params
from lm.settings import choose
from lm.tasks.labels import clean, index_of
from lm.tasks.task import (
    Batch,
    DropoutKey,
    Outputs,
    Prediction,
    Predictions,
    RecordOutputs,
    Records,
    Scores,
    Task,
    TaskObjective,
    apply,
)
from lm.tasks.text import TextInputs, text_field

ON_ILL_FORMED = ("raise", "repair", "keep")


@dataclasses.dataclass(frozen=True)
class SoftmaxTags(TaskObjective):
    """Learns the tag of each word by itself."""

    inputs: TextInputs
    labels: tuple[str, ...]

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return heads.TokenHead(family.body(model_config), len(self.labels))

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        inputs, at_BW = self.inputs.inputs(self.inputs.empty()), jnp.zeros((1, 1), jnp.int32)
        return model.init(key, inputs, at_BW)["params"]

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        inputs = self.inputs.inputs(batch)
        logits_BWS = apply(model, params, dropout_key, inputs, batch["first_BW"])
        # Of the texts of a row, one tag or another is right by itself: they are one list of words.
        num_words_B = jnp.sum(batch["num_words_BE"], axis=1)
        weights_BW = _mask(num_words_B, batch).astype(jnp.float32)
        return likelihood.cross_entropy(logits_BWS, batch["tags_BW"], weights_BW)

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        logits_BWS = apply(model, params, None, self.inputs.inputs(batch), batch["first_BW"])
        probabilities_BWS = jax.nn.softmax(logits_BWS)
        best = jnp.argmax(probabilities_BWS, axis=-1), jnp.max(probabilities_BWS, axis=-1)
        return _outputs(*best)


@dataclasses.dataclass(frozen=True)
class CRFTags(TaskObjective):
    """Learns the tags of all words together; with a scheme, only well-formed paths."""

    inputs: TextInputs
    labels: tuple[str, ...]
    scheme: str | None

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return heads.CRFTagger(family.body(model_config), self.labels, self.scheme)

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        inputs, at_BW = self.inputs.inputs(self.inputs.empty()), jnp.zeros((1, 1), jnp.int32)
        mask_BW = jnp.ones_like(at_BW, bool)
        return model.init(key, inputs, at_BW, at_BW, mask_BW, method="log_likelihood")["params"]

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        mask_BW = _mask(batch["num_words_B"], batch)
        words = self.inputs.inputs(batch), batch["first_BW"], batch["tags_BW"], mask_BW
        nll = -jnp.sum(apply(model, params, dropout_key, *words, method="log_likelihood"))
        # A path's likelihood is that of all its words, so that the loss is a word's, as by softmax.
        return {"loss": nll, "nll": nll, "num_tokens": jnp.sum(mask_BW, dtype=jnp.float32)}

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        mask_BW = _mask(batch["num_words_B"], batch)
        words = self.inputs.inputs(batch), batch["first_BW"], mask_BW
        # No `deterministic` here: it is never trained through.
        return _outputs(*model.apply({"params": params}, *words, method="best_tags"))


def _outputs(tags_BW: jax.Array, probabilities_BW: jax.Array) -> dict[str, jax.Array]:
    return {"tags_BW": tags_BW, "probabilities_BW": probabilities_BW}


class _Words(NamedTuple):
    """The words of a record."""

    texts: list[str]
    offsets: list[tuple[int, int]] | None  # Where they stand in its text, if it has one.


class Tagging(Task):
    """A tag for each word of a text; a `Task`.

    Args:
      inputs: frames the texts.
      labels: the tags, in the order of the outputs; of BILOU or BMES where the scheme is BIOES.
      crf: whether tags are chosen as a path, which obeys `scheme` where there is one.
      scheme: "BIO", "BIOES", or "" for tags that make no entities, such as parts of speech.
      on_ill_formed: what happens to tags that break the scheme, as an I- that nothing began:
        "raise", "repair" (counted; it makes BIO of IOB1), or "keep", which a CRF with a scheme
        cannot learn.
      tokens, tags: the fields of a record, two lists of equal length.

    Raises UserError where settings do not go together.
    """

    def __init__(
        self,
        inputs: TextInputs,
        *,
        labels: Sequence[str],
        crf: bool,
        scheme: str,
        on_ill_formed: str,
        tokens: str,
        tags: str,
    ):
        choose("task.on_ill_formed", on_ill_formed, ON_ILL_FORMED)
        if crf and scheme and on_ill_formed == "keep":
            raise UserError(
                "task.on_ill_formed=keep: a CRF of a scheme gives broken tags no likelihood; "
                "repair them, or set task.crf=False"
            )
        index, labels = index_of("tagging", labels, scheme), spelled(labels, scheme)
        if scheme:
            for label in ("O", *labels):
                split_tag(label, scheme)  # Raises for a tag of another scheme.
        self.notes = inputs.notes
        # A CRF's path is that of one text, which has a row of its own.
        self.layout = inputs.layout("") if crf else inputs.layout("LW", "first_BW")
        entity_names = ("f1_micro", "precision_micro", "recall_micro") if scheme else ()
        self.metrics = (*entity_names, "token_accuracy")
        self._inputs, self._labels, self._index = inputs, list(labels), index
        self._scheme, self._on_ill_formed = scheme or None, on_ill_formed
        self._tokens, self._tags = tokens, tags
        self.objective: TaskObjective = SoftmaxTags(inputs, tuple(labels))
        if crf:
            self.objective = CRFTags(inputs, tuple(labels), self._scheme)

    def encode(self, record: Record) -> list[Features]:
        tags = self._well_formed(record, self._words_and_tags(record)[1])
        for tag in tags:
            if tag not in self._index:
                raise UserError(
                    f"{record.name}: the tag {tag!r} is none of training's: "
                    f"{', '.join(self._labels)}"
                )
        (read,) = self.read(record)
        kept = tags[: read["num_words_B"]]  # A text that is cut has fewer words than tags.
        tags_W = np.array([self._index[tag] for tag in kept], np.int32)
        return [read | {"tags_BW": tags_W}]

    def read(self, record: Record) -> list[Features]:
        """A record without words has its text in the field "text"; see `split_words`."""
        words = self._words(record)
        tokenizer = self._inputs.tokenizer
        if words.offsets is None:
            spaces = _space_before(record, len(words.texts))
            ids, word_of = encode_words(tokenizer, words.texts, spaces)
            # The first piece of a word stands for it (Devlin et al. 2019, section 5.3).
            first_W = first_pieces(word_of)
        else:
            ids, _, ends = tokenizer.encode_with_offsets(record.fields["text"])
            if not len(ids):
                raise UserError(f"{record.name}: the tokenizer drops all of the text")
            starts = [start for start, _ in words.offsets]
            # A word of which the tokenizer drops everything has the piece behind it, or the last.
            first_W = np.minimum(np.searchsorted(ends, starts, side="right"), len(ids) - 1)
        features, first_W = self._inputs.frame_words(record.name, ids, first_W)
        first_W = first_W.astype(np.int32)
        return [features | {"first_BW": first_W, "num_words_B": len(first_W)}]

    def from_text(self, name: str, text: str) -> Record:
        return Record(name, {"text": text})

    def _words(self, record: Record) -> _Words:
        if "text" not in record.fields or has(record.fields, self._tokens):
            return _Words(_strings(record, self._tokens), None)
        text = text_field(*record, "text")
        offsets = split_words(text)
        return _Words([text[start:end] for start, end in offsets], offsets)

    def _words_and_tags(self, record: Record) -> tuple[list[str], list[str]]:
        return words_and_tags(record, self._tokens, self._tags, self._scheme)

    def _well_formed(self, record: Record, tags: list[str]) -> list[str]:
        if self._scheme is None:
            return tags
        try:
            repaired, count = repair(tags, self._scheme)
        except UserError as error:
            raise UserError(f"{record.name}: {error}") from None
        if self._on_ill_formed == "keep":
            return tags
        if count and self._on_ill_formed == "raise":
            at = next(i for i, tag in enumerate(tags) if tag != repaired[i])
            raise UserError(
                f"{record.name}: the tag {tags[at]!r} of word {at + 1} breaks the scheme "
                f"{self._scheme}, where {repaired[at]!r} would not; mend it, or set "
                "task.on_ill_formed=repair"
            )
        self.notes["tags repaired"] += count
        return repaired

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        pairs = zip(records, outputs, strict=True)
        return [self._prediction(self._words(record), example) for record, (example,) in pairs]

    def _prediction(self, words: _Words, example: Outputs) -> Prediction:
        num_read = len(example["tags_BW"])
        num_cut = len(words.texts) - num_read
        # Every word has a tag: one that was cut off gets O, or the first where tags have no O.
        cut_tag = "O" if "O" in self._index else self._labels[0]
        tags = [self._labels[int(i)] for i in example["tags_BW"]] + [cut_tag] * num_cut
        probabilities = [round(float(p), 6) for p in example["probabilities_BW"]]
        probabilities += [None] * num_cut
        prediction: Prediction = {"tags": tags, "probabilities": probabilities}
        if words.offsets is not None:
            prediction |= {"tokens": words.texts, "offsets": words.offsets}
        if self._scheme is not None:
            found = [_entity(words, entity, probabilities) for entity in entities(tags)]
            prediction["entities"] = found
        return prediction

    def gold(self, record: Record) -> Prediction:
        tags = self._words_and_tags(record)[1]
        if self._scheme is not None and self._on_ill_formed == "repair":
            tags, _ = repair(tags, self._scheme)
        return {"tags": tags}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        gold = [self.gold(record)["tags"] for record in records]
        predicted = [prediction["tags"] for prediction in predictions]
        if self._scheme is not None:
            return entity_metrics(gold, predicted)
        flat = lambda rows: [tag for tags in rows for tag in tags]
        right = [p == g for p, g in zip(flat(predicted), flat(gold), strict=True)]
        return {"token_accuracy": sum(right) / len(right)}

    def by_label(self, records: Records, predictions: Predictions) -> dict[str, Scores]:
        """Scores each entity type; without a scheme, each tag."""
        gold = [self.gold(record)["tags"] for record in records]
        predicted = [prediction["tags"] for prediction in predictions]
        if self._scheme is not None:
            return by_type(gold, predicted)
        index_of = lambda rows: np.array([self._index[tag] for tags in rows for tag in tags])
        counts_SS = confusion(index_of(gold), index_of(predicted), len(self._labels))
        counts = counts_SS.diagonal(), counts_SS.sum(0), counts_SS.sum(1)
        return averages.by_label(self._labels, *counts)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        """Predicts each word's commonest tag, or the commonest of all for an unseen word."""
        seen: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        everywhere: collections.Counter = collections.Counter()
        for record in train:
            for word, tag in zip(*self._words_and_tags(record), strict=True):
                seen[word][tag] += 1
                everywhere[tag] += 1
        # Of equally common tags the last by name, so that no order of records decides.
        commonest = lambda counts: max(counts, key=lambda tag: (counts[tag], tag))
        best = {word: commonest(counts) for word, counts in seen.items()}
        other = commonest(everywhere)
        words_of = lambda record: lookup(record.fields, self._tokens)
        tags_of = lambda record: [best.get(word, other) for word in words_of(record)]
        return {"each word's commonest tag": [{"tags": tags_of(record)} for record in records]}


def _entity(words: _Words, entity: Entity, probabilities: Sequence[float]) -> dict[str, Any]:
    """Describes an entity as JSON; its probability is the mean of those of its words' tags."""
    of_words = probabilities[entity.start : entity.end]
    found: dict[str, Any] = {"type": entity.kind, "words": [entity.start, entity.end]}
    found["probability"] = round(sum(of_words) / len(of_words), 6)
    if words.offsets is not None:
        found["start"] = words.offsets[entity.start][0]
        found["end"] = words.offsets[entity.end - 1][1]
    return found


def find_tags(
    records: Iterable[Record], tokens: str, tags: str, scheme: str, on_ill_formed: str
) -> list[str]:
    """Returns all tags that occur, after repair where that is asked for, O first."""
    found = set()
    for record in records:
        try:
            names = words_and_tags(record, tokens, tags, scheme)[1]
            repaired = repair(names, scheme)[0] if scheme else names
            found.update(repaired if on_ill_formed == "repair" else names)
        except UserError:  # A bad record, or one of another scheme: `encode` will report it.
            continue
    # O, and then by type: B-LOC, I-LOC, B-PER, ...
    return sorted(found, key=lambda tag: (tag != "O", tag.partition("-")[::-1]))


def words_and_tags(
    record: Record, tokens: str, tags: str, scheme: str | None
) -> tuple[list[str], list[str]]:
    """Returns the words and tags of a record, those of BILOU and BMES as BIOES has them.

    Raises UserError where they are missing, empty, not strings, or of unequal numbers.
    """
    words, names = _strings(record, tokens), _strings(record, tags)
    if len(words) != len(names):
        raise UserError(f"{record.name}: {len(words)} {tokens}, but {len(names)} {tags}")
    return words, spelled(map(clean, names), scheme)


def _strings(record: Record, key: str) -> list[str]:
    value = lookup(record.fields, key) if has(record.fields, key) else None
    if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
        there = names_of(record.fields)
        raise UserError(
            f"{record.name}: the field {key!r} is no list of strings; there are {there}"
        )
    if not value:
        raise UserError(f"{record.name}: the field {key!r} is empty; remove the example")
    return list(value)


def _space_before(record: Record, num_words: int) -> list[bool] | None:
    """Says whether a space precedes each word; None where the record does not say."""
    spaces = record.fields.get("space_before")
    is_list = isinstance(spaces, list) and all(isinstance(space, bool) for space in spaces)
    if spaces is not None and not (is_list and len(spaces) == num_words):
        raise UserError(
            f"{record.name}: the field 'space_before' is no list of {num_words} truth values, one "
            "a word; mend it, or leave it out"
        )
    return spaces


def _mask(num_words_B: jax.Array, batch: Batch) -> jax.Array:
    """Returns B x W: where there is a word."""
    return jnp.arange(batch["first_BW"].shape[1])[None] < num_words_B[:, None]
