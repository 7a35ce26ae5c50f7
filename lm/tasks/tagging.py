"""Sequence labelling: a tag for each word, by itself or as the likeliest path of a CRF.

Dimension key:
  B batch    L length    W words    S tags
"""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm import losses
from lm.data.alignment import encode_words, first_pieces
from lm.data.records import Record
from lm.errors import UserError
from lm.metrics.entities import entity_metrics, repair, split_tag
from lm.models import heads
from lm.models.families import Family
from lm.tasks.text import TextInputs

ON_ILL_FORMED = ("raise", "repair", "keep")


class TagModel(Protocol):
    """How tags come from hidden states: the module, its loss, and its tags.

    `_Softmax` and `_CRF` below.
    """

    def module(self, body: nn.Module) -> nn.Module: ...

    def init(self, model: nn.Module, key: jax.Array, inputs, at_BW): ...

    def loss(self, apply, inputs, batch, mask_BW) -> losses.Sums: ...

    def tags(self, apply, inputs, batch, mask_BW) -> jax.Array: ...


class _Softmax:
    """Each word by itself."""

    def __init__(self, labels: Sequence[str], scheme: str | None):
        self._labels = labels

    def module(self, body):
        return heads.TokenHead(body, len(self._labels))

    def init(self, model, key, inputs, at_BW):
        return model.init(key, inputs, at_BW)

    def loss(self, apply, inputs, batch, mask_BW):
        logits_BWS = apply(inputs, batch["first_BW"])
        return losses.cross_entropy(logits_BWS, batch["tags_BW"], mask_BW.astype(jnp.float32))

    def tags(self, apply, inputs, batch, mask_BW):
        return jnp.argmax(apply(inputs, batch["first_BW"]), axis=-1)


class _CRF:
    """All words together; with a scheme, only well-formed paths."""

    def __init__(self, labels: Sequence[str], scheme: str | None):
        self._labels, self._scheme = tuple(labels), scheme

    def module(self, body):
        return heads.CRFTagger(body, self._labels, self._scheme)

    def init(self, model, key, inputs, at_BW):
        mask_BW = jnp.ones_like(at_BW, bool)
        return model.init(key, inputs, at_BW, at_BW, mask_BW, method="log_likelihood")

    def loss(self, apply, inputs, batch, mask_BW):
        likely_B = apply(
            inputs, batch["first_BW"], batch["tags_BW"], mask_BW, method="log_likelihood"
        )
        nll = -jnp.sum(likely_B)
        return {"loss": nll, "nll": nll, "num_tokens": jnp.sum(mask_BW, dtype=jnp.float32)}

    def tags(self, apply, inputs, batch, mask_BW):
        # No `deterministic` here: it is never trained through.
        return apply(inputs, batch["first_BW"], mask_BW, method="best_tags")


class Tagging:
    """A tag for each word of a text; a `Task`.

    The first piece of each word stands for it.

    Args:
      inputs: frames the texts.
      labels: the tags, in the order of the outputs.
      crf: whether tags are chosen as a path, which obeys `scheme` where there is one.
      scheme: "BIO", "BIOES", or "" for tags that make no entities, such as parts of speech.
      on_ill_formed: what happens to tags that break the scheme, as an I- that nothing began:
        "raise", "repair" (counted), or "keep", which a CRF with a scheme cannot learn.
      tokens, tags: the fields of a record, two lists of equal length.

    Raises:
      UserError: settings that do not go together.
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
        if on_ill_formed not in ON_ILL_FORMED:
            raise UserError(
                f"task.on_ill_formed={on_ill_formed!r} is unknown; choose "
                f"{', '.join(ON_ILL_FORMED)}"
            )
        if crf and scheme and on_ill_formed == "keep":
            raise UserError(
                "task.on_ill_formed=keep: a CRF of a scheme gives broken tags no likelihood; "
                "repair them, or set task.crf=False"
            )
        if scheme:
            for label in ("O", *labels):
                split_tag(label, scheme)
        self.fill = inputs.fill
        self.metrics = ("f1_micro", "precision_micro", "recall_micro") if scheme else ()
        self.metrics += ("token_accuracy",)
        self.notes = inputs.notes
        self._inputs, self._labels = inputs, list(labels)
        self._index = {name: i for i, name in enumerate(labels)}
        self._scheme, self._on_ill_formed = scheme or None, on_ill_formed
        self._tokens, self._tags = tokens, tags
        self._tag_model: TagModel = (_CRF if crf else _Softmax)(labels, self._scheme)

    def encode(self, record):
        words, tags = words_and_tags(record, self._tokens, self._tags)
        tags = self._well_formed(record, tags)
        for tag in tags:
            if tag not in self._index:
                raise UserError(
                    f"{record.name}: the tag {tag!r} is none of training's: "
                    f"{', '.join(self._labels)}"
                )
        ids, word_of = encode_words(
            self._inputs.tokenizer, words, _space_before(record, len(words))
        )
        features, first_W = self._inputs.frame_words(record.name, ids, first_pieces(word_of))
        tags_W = np.array([self._index[tag] for tag in tags[: len(first_W)]], np.int32)
        num_words = len(first_W)
        return [features | {"first_BW": first_W, "tags_BW": tags_W, "num_words_B": num_words}]

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

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return self._tag_model.module(family.body(model_config))

    def init_params(self, model, key):
        inputs = self._inputs.inputs(self._inputs.empty())
        return self._tag_model.init(model, key, inputs, jnp.zeros((1, 1), jnp.int32))["params"]

    def loss(self, model, params, batch, dropout_key):
        def apply(*args, **kwargs):
            rngs = None if dropout_key is None else {"dropout": dropout_key}
            return model.apply(
                {"params": params}, *args, deterministic=rngs is None, rngs=rngs, **kwargs
            )

        return self._tag_model.loss(apply, self._inputs.inputs(batch), batch, _mask(batch))

    def outputs(self, model, params, batch):
        apply = lambda *args, **kwargs: model.apply({"params": params}, *args, **kwargs)
        inputs = self._inputs.inputs(batch)
        tags_BW = self._tag_model.tags(apply, inputs, batch, _mask(batch))
        return {"tags_BW": tags_BW, "num_words_B": batch["num_words_B"]}

    def predictions(self, records, outputs, model, params):
        """Words that were cut off get the first label, O where there is one."""
        predictions = []
        for record, (example,) in zip(records, outputs, strict=True):
            num_words = len(record.fields[self._tokens])
            num_read = int(example["num_words_B"])
            tags = [self._labels[int(i)] for i in example["tags_BW"][:num_read]]
            predictions.append({"tags": tags + [self._cut_tag()] * (num_words - num_read)})
        return predictions

    def _cut_tag(self) -> str:
        return "O" if "O" in self._index else self._labels[0]

    def gold(self, record):
        tags = words_and_tags(record, self._tokens, self._tags)[1]
        if self._scheme is not None and self._on_ill_formed == "repair":
            tags, _ = repair(tags, self._scheme)
        return {"tags": tags}

    def score(self, records, predictions):
        gold = [self.gold(record)["tags"] for record in records]
        predicted = [prediction["tags"] for prediction in predictions]
        if self._scheme is not None:
            return entity_metrics(gold, predicted)
        flat = lambda rows: [tag for tags in rows for tag in tags]
        right = [p == g for p, g in zip(flat(predicted), flat(gold), strict=True)]
        return {"token_accuracy": sum(right) / len(right)}

    def baselines(self, train, records):
        """Each word's commonest tag; of a word that training never saw, the commonest of all."""
        seen: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        everywhere: collections.Counter = collections.Counter()
        for record in train:
            for word, tag in zip(*words_and_tags(record, self._tokens, self._tags), strict=True):
                seen[word][tag] += 1
                everywhere[tag] += 1
        commonest = lambda counts: max(counts, key=lambda tag: (counts[tag], tag))
        best = {word: commonest(counts) for word, counts in seen.items()}
        other = commonest(everywhere)
        tags_of = lambda record: [best.get(word, other) for word in record.fields[self._tokens]]
        return {"each word's commonest tag": [{"tags": tags_of(record)} for record in records]}

    def pictures(self, records, predictions):
        return {}


def find_tags(
    records: Iterable[Record], tokens: str, tags: str, scheme: str, on_ill_formed: str
) -> list[str]:
    """All tags that occur, after repair where that is asked for, O first.

    Bad records, and those whose tags are of another scheme, are left to `Tagging.encode` to report.
    """
    found = set()
    for record in records:
        try:
            names = words_and_tags(record, tokens, tags)[1]
            repaired = repair(names, scheme)[0] if scheme else names
            found.update(repaired if on_ill_formed == "repair" else names)
        except UserError:
            continue
    return sorted(found, key=lambda tag: (tag != "O", tag.partition("-")[::-1]))


def words_and_tags(record: Record, tokens: str, tags: str) -> tuple[list[str], list[str]]:
    """Two lists of equal length.

    Raises:
      UserError: they are missing, empty, not lists of strings, or of unequal lengths.
    """
    lists = []
    for key in (tokens, tags):
        value = record.fields.get(key)
        if not isinstance(value, list | tuple) or not all(isinstance(x, str) for x in value):
            there = ", ".join(map(repr, record.fields))
            raise UserError(
                f"{record.name}: the field {key!r} is no list of strings; there are {there}"
            )
        lists.append(list(value))
    if len(lists[0]) != len(lists[1]):
        raise UserError(f"{record.name}: {len(lists[0])} {tokens}, but {len(lists[1])} {tags}")
    if not lists[0]:
        raise UserError(f"{record.name}: the field {tokens!r} is empty; remove the example")
    return lists[0], lists[1]


def _space_before(record: Record, num_words: int) -> list[bool] | None:
    """Whether a space precedes each word; None where the record does not say."""
    spaces = record.fields.get("space_before")
    is_list = isinstance(spaces, list) and all(isinstance(space, bool) for space in spaces)
    if spaces is not None and not (is_list and len(spaces) == num_words):
        raise UserError(
            f"{record.name}: the field 'space_before' is no list of {num_words} truth values, one "
            "a word; mend it, or leave it out"
        )
    return spaces


def _mask(batch: dict[str, jax.Array]) -> jax.Array:
    """B x W: where there is a word."""
    return jnp.arange(batch["first_BW"].shape[1])[None] < batch["num_words_B"][:, None]
