"""Extractive question answering: the part of a context that answers a question, if any does.

Dimension key:
  B batch    L length    A candidate answers    E lengths of an answer
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm import losses
from lm.data.records import Record
from lm.data.windows import answer_pieces, answer_text, check_windows, windows
from lm.errors import UserError
from lm.metrics import squad
from lm.models import heads
from lm.models.families import Family
from lm.tasks.text import TextInputs, text_field

_NUM_CANDIDATES = 8  # Of each window.
_SCORES = {"squad": squad.squad_metrics, "cmrc": squad.cmrc_metrics}


class QuestionAnswering:
    """A `Task` on records as SQuAD has them (Devlin et al. 2019, sections 4.2 and 4.3).

    A question and a window of its context are read as a pair. Where the window does not hold the
    answer, the answer is the first token; in a decoder the last, which alone has seen all.

    Args:
      inputs: frames the texts.
      stride: how far apart the windows of a long context start, in pieces.
      max_answer_len: pieces of the longest answer that is predicted.
      unanswerable: whether questions may have no answer, as in SQuAD 2.0.
      scorer: "squad", or "cmrc", which counts Chinese characters.
    """

    def __init__(
        self,
        inputs: TextInputs,
        *,
        stride: int,
        max_answer_len: int,
        unanswerable: bool,
        scorer: str,
    ):
        if scorer not in _SCORES:
            raise UserError(f"task.scorer={scorer!r} is unknown; choose {', '.join(_SCORES)}")
        if max_answer_len < 1:
            raise UserError(f"task.max_answer_len={max_answer_len} must be at least 1")
        self.metrics, self.fill, self.notes = ("f1", "exact_match"), inputs.fill, inputs.notes
        self._inputs, self._stride, self._max_answer_len = inputs, stride, max_answer_len
        self._unanswerable, self._score = unanswerable, _SCORES[scorer]
        self._none_is_last = inputs.family.architecture == "decoder"

    def encode(self, record):
        question = text_field(*record, "question")
        context = text_field(*record, "context")
        answer = self._answer(record)
        question_ids = self._inputs.tokenizer.encode_batch([question])[0]
        offsets = self._inputs.tokenizer.encode_with_offsets(context)
        size = self._inputs.room(num_parts=2) - len(question_ids)
        check_windows(record.name, size=size, stride=self._stride)
        pieces = None
        if answer is not None:
            start = answer["answer_start"]
            pieces = answer_pieces(offsets, start, start + len(answer["text"]))
            if pieces is None:
                raise UserError(f"{record.name}: the tokenizer drops all of the answer")
        examples = []
        for window in windows(len(offsets.ids), size=size, stride=self._stride):
            ids = offsets.ids[window.first : window.end]
            features = self._inputs.frame(record.name, [question_ids, ids])
            at = features["length_B"] - len(ids) - 1
            none = features["length_B"] - 1 if self._none_is_last else 0
            start, end = none, none
            if pieces and window.first <= pieces[0] and pieces[1] < window.end:
                start, end = (at + piece - window.first for piece in pieces)
            examples.append(
                features
                | {
                    "start_B": start,
                    "end_B": end,
                    "none_B": none,
                    "context_B": at,
                    "num_context_B": len(ids),
                    "first_piece_B": window.first,
                    "weight_B": 1.0,
                }
            )
        return examples

    def _answer(self, record: Record) -> dict[str, Any] | None:
        """The first gold answer, checked; None where there is none."""
        answers = answers_of(record)
        if not answers and not self._unanswerable:
            raise UserError(
                f"{record.name}: has no answer, as in SQuAD 2.0; set task.unanswerable=True"
            )
        return answers[0] if answers else None

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return heads.TokenHead(family.body(model_config), 2)

    def init_params(self, model, key):
        return model.init(key, self._inputs.inputs(self._inputs.empty()))["params"]

    def _logits(self, model, params, batch, dropout_key) -> tuple[jax.Array, jax.Array]:
        """B x L twice: of each position to be the start, and the end."""
        rngs = None if dropout_key is None else {"dropout": dropout_key}
        inputs = self._inputs.inputs(batch)
        logits_BL2 = model.apply({"params": params}, inputs, deterministic=rngs is None, rngs=rngs)
        allowed_BL = _in_context(batch, logits_BL2.shape[1])
        none_BL = jnp.arange(logits_BL2.shape[1])[None] == batch["none_B"][:, None]
        hide = lambda x_BL: jnp.where(allowed_BL | none_BL, x_BL, -1e30)
        return hide(logits_BL2[..., 0]), hide(logits_BL2[..., 1])

    def loss(self, model, params, batch, dropout_key):
        """The mean of start's and end's cross-entropy, a target being a window."""
        both = [
            losses.cross_entropy(logits[:, None], batch[name][:, None], batch["weight_B"][:, None])
            for name, logits in zip(
                ("start_B", "end_B"), self._logits(model, params, batch, dropout_key), strict=True
            )
        ]
        return jax.tree.map(lambda a, b: (a + b) / 2, *both)

    def outputs(self, model, params, batch):
        """Of each window the best answers in pieces of the context, and the score of none."""
        start_BL, end_BL = self._logits(model, params, batch, None)
        in_context_BL = _in_context(batch, start_BL.shape[1])
        spans = best_spans(
            jnp.where(in_context_BL, start_BL, -jnp.inf),
            jnp.where(in_context_BL, end_BL, -jnp.inf),
            max_len=self._max_answer_len,
            num=_NUM_CANDIDATES,
        )
        shift_B1 = (batch["first_piece_B"] - batch["context_B"])[:, None]
        at_none = lambda x_BL: jnp.take_along_axis(x_BL, batch["none_B"][:, None], axis=1)[:, 0]
        return {
            "first_BA": spans["start_BA"] + shift_B1,
            "last_BA": spans["end_BA"] + shift_B1,
            "score_BA": spans["score_BA"],
            "none_score_B": at_none(start_BL) + at_none(end_BL),
        }

    def predictions(self, records, outputs, model, params):
        return [
            self._prediction(record, of_windows)
            for record, of_windows in zip(records, outputs, strict=True)
        ]

    def _prediction(self, record: Record, of_windows: Sequence[dict]) -> dict[str, Any]:
        """Over all windows: the best answer, or none where that scores more."""
        candidates = [
            (-float(score), int(first), int(last))
            for window in of_windows
            for score, first, last in zip(
                window["score_BA"], window["first_BA"], window["last_BA"], strict=True
            )
            if np.isfinite(score)
        ]
        none_score = min(float(window["none_score_B"]) for window in of_windows)
        score, text = -np.inf, ""
        if candidates:
            negative, first, last = min(candidates)
            context = record.fields["context"]
            offsets = self._inputs.tokenizer.encode_with_offsets(context)
            score, text = -negative, answer_text(context, offsets, first, last)
        if self._unanswerable and none_score > score:
            text = ""
        scores = {"score": float(score), "none_score": none_score}
        return {"id": record.fields["id"], "text": text} | scores

    def gold(self, record):
        return {"answers": [answer["text"] for answer in answers_of(record)]}

    def score(self, records, predictions):
        ids = [record.fields["id"] for record in records]
        golds = [self.gold(record)["answers"] for record in records]
        texts = [prediction["text"] for prediction in predictions]
        return self._score(dict(zip(ids, texts, strict=True)), dict(zip(ids, golds, strict=True)))

    def baseline(self, train, records):
        """The word of the context that holds the most letters of the question's words."""

        def guess(record: Record) -> str:
            asked = {word.lower() for word in re.findall(r"\w+", record.fields["question"])}
            likeness = lambda word: sum(len(w) for w in asked if w in word.lower())
            return max(re.findall(r"\w+", record.fields["context"]), key=likeness, default="")

        guesses = [{"id": r.fields["id"], "text": guess(r)} for r in records]
        return "the word most like the question", guesses

    def pictures(self, records, predictions):
        return {}


def best_spans(
    start_BL: jax.Array, end_BL: jax.Array, *, max_len: int, num: int
) -> dict[str, jax.Array]:
    """B x L logits twice -> the `num` spans of the highest sum, best first: B x A three times.

    Returns:
      "start_BA" and "end_BA", positions with start <= end < start + max_len, and "score_BA", which
      is -inf where there are fewer spans. A position with a logit of -inf is in none.
    """
    B, L = start_BL.shape
    end_LE = jnp.arange(L)[:, None] + jnp.arange(max_len)[None, :]
    padded_BL = jnp.pad(end_BL, ((0, 0), (0, max_len)), constant_values=-jnp.inf)
    score_BLE = start_BL[:, :, None] + padded_BL[:, end_LE]
    score_BA, index_BA = jax.lax.top_k(score_BLE.reshape(B, -1), min(num, L * max_len))
    start_BA, length_BA = index_BA // max_len, index_BA % max_len
    return {"start_BA": start_BA, "end_BA": start_BA + length_BA, "score_BA": score_BA}


def answers_of(record: Record) -> list[dict[str, Any]]:
    """The gold answers of a record, none if it says that there is none.

    Raises:
      UserError: one does not stand in the context where it says.
    """
    if record.fields.get("is_impossible"):
        return []
    context, answers = text_field(*record, "context"), record.fields.get("answers", [])
    for answer in answers:
        start, text = answer["answer_start"], answer["text"]
        found = context[start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            raise UserError(
                f"{record.name}: the answer {text!r} is not at character {start}, where the "
                f"context has {found!r}; mend it, or set data.on_error=skip"
            )
    return answers


def _in_context(batch: dict[str, jax.Array], L: int) -> jax.Array:
    """B x L: whether a position holds a piece of the context."""
    at_B1, count_B1 = batch["context_B"][:, None], batch["num_context_B"][:, None]
    at_L = jnp.arange(L)[None]
    return (at_L >= at_B1) & (at_L < at_B1 + count_B1)
