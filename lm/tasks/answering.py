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

from lm.data.answer_windows import (
    BestSpans,
    Window,
    answer_span,
    best_answers,
    best_spans,
    span_characters,
    span_in_window,
    windows,
)
from lm.data.examples import Features
from lm.data.records import Record
from lm.errors import UserError
from lm.losses import likelihood
from lm.losses.likelihood import Sums
from lm.metrics import squad
from lm.models import heads
from lm.models.families import Family
from lm.models.parameters import Params
from lm.settings import choose
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
from lm.tasks.text import TextInputs, needs_fields, text_field
from lm.tokenizers.offsets import Offsets

_NUM_CANDIDATES = 8  # Of each window.
_SCORES = {"squad": squad.squad_metrics, "cmrc": squad.cmrc_metrics}


class AnswerSpans(TaskObjective):
    """Learns where an answer starts and ends.

    Args:
      inputs: frames the texts.
      max_answer_len: pieces of the longest answer that is predicted.
    """

    def __init__(self, inputs: TextInputs, max_answer_len: int):
        self._inputs, self._max_answer_len = inputs, max_answer_len

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return heads.TokenHead(family.body(model_config), 2)

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        return model.init(key, self._inputs.inputs(self._inputs.empty()))["params"]

    def _logits(
        self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey
    ) -> tuple[jax.Array, jax.Array]:
        """B x L twice: of each position to be the start, and the end."""
        logits_BL2 = apply(model, params, dropout_key, self._inputs.inputs(batch))
        allowed_BL = _in_context(batch, logits_BL2.shape[1])
        none_BL = jnp.arange(logits_BL2.shape[1])[None] == batch["none_B"][:, None]
        hide = lambda x_BL: jnp.where(allowed_BL | none_BL, x_BL, -1e30)
        return hide(logits_BL2[..., 0]), hide(logits_BL2[..., 1])

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        """The mean of start's and end's cross-entropy, a target being a window."""
        both = [
            likelihood.cross_entropy(
                logits[:, None], batch[name][:, None], batch["weight_B"][:, None]
            )
            for name, logits in zip(
                ("start_B", "end_B"), self._logits(model, params, batch, dropout_key), strict=True
            )
        ]
        return jax.tree.map(lambda a, b: (a + b) / 2, *both)

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Of each window the best answers in pieces of the context, and the score of none."""
        spans = best_spans(
            *self._logits(model, params, batch, None),
            batch["context_B"],
            batch["num_context_B"],
            max_length=self._max_answer_len,
            num_best=_NUM_CANDIDATES,
            none_at_B=batch["none_B"],
        )
        return spans._asdict() | {"shift_B": batch["shift_B"]}


class QuestionAnswering(Task):
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

    metrics = ("f1", "exact_match")

    def __init__(
        self,
        inputs: TextInputs,
        *,
        stride: int,
        max_answer_len: int,
        unanswerable: bool,
        scorer: str,
    ):
        choose("task.scorer", scorer, _SCORES)
        if scorer == "cmrc" and unanswerable:
            raise UserError(
                "task.scorer=cmrc scores answers alone, and task.unanswerable=True allows none; "
                "take scorer=squad"
            )
        if max_answer_len < 1:
            raise UserError(f"task.max_answer_len={max_answer_len} must be at least 1")
        self.fill, self.notes = inputs.fill, inputs.notes
        self.objective = AnswerSpans(inputs, max_answer_len)
        self._inputs, self._stride, self._max_answer_len = inputs, stride, max_answer_len
        self._unanswerable, self._score = unanswerable, _SCORES[scorer]
        self._none_is_last = inputs.family.architecture == "decoder"

    def encode(self, record: Record) -> list[Features]:
        answer = self._answer(record)
        if answer is None:
            return self.read(record)
        offsets = self._inputs.tokenizer.encode_with_offsets(text_field(*record, "context"))
        span = answer_span(offsets.starts, offsets.ends, answer["answer_start"], answer["text"])
        if span is None:
            raise UserError(f"{record.name}: the tokenizer drops all of the answer")
        examples = [self._example(window, span) for window in self._windows(record, offsets)]
        if all(example["start_B"] == example["none_B"] for example in examples):
            self.notes["answers that no window holds"] += 1
        if span[1] - span[0] >= self._max_answer_len:
            self.notes["answers longer than task.max_answer_len"] += 1
        return examples

    def read(self, record: Record) -> list[Features]:
        offsets = self._inputs.tokenizer.encode_with_offsets(text_field(*record, "context"))
        return [self._example(window, None) for window in self._windows(record, offsets)]

    def from_text(self, name: str, text: str) -> Record:
        raise needs_fields(name, "question", "context")

    def _windows(self, record: Record, offsets: Offsets) -> list[Window]:
        """The question with each part of its context, whose pieces have these offsets."""
        question, tokenizer = text_field(*record, "question"), self._inputs.tokenizer
        return windows(
            tokenizer.encode_batch([question])[0],
            offsets.ids,
            seq_len=self._inputs.seq_len,
            stride=self._stride,
            frame=tokenizer.frame(2),
            name=record.name,
        )

    def _example(self, window: Window, span: tuple[int, int] | None) -> Features:
        none = len(window.ids_L) - 1 if self._none_is_last else 0
        start, end = span_in_window(window, span, none=none)
        return self._inputs.features(window.ids_L, window.types_L) | {
            "start_B": start,
            "end_B": end,
            "none_B": none,
            "context_B": window.at,
            "num_context_B": window.end - window.first,
            "shift_B": window.shift,
            "weight_B": 1.0,
        }

    def _answer(self, record: Record) -> dict[str, Any] | None:
        """The first gold answer, checked; None where there is none."""
        answers = answers_of(record)
        if not answers and not self._unanswerable:
            raise UserError(
                f"{record.name}: has no answer, as in SQuAD 2.0; set task.unanswerable=True"
            )
        return answers[0] if answers else None

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        return [
            self._prediction(record, of_windows)
            for record, of_windows in zip(records, outputs, strict=True)
        ]

    def _prediction(self, record: Record, of_windows: Sequence[Outputs]) -> Prediction:
        """Over all windows: the best answer, or none where that scores more."""
        rows = lambda name: np.stack([window[name] for window in of_windows])
        spans = BestSpans(*map(rows, BestSpans._fields))
        answers, none_score = best_answers(rows("shift_B"), spans, num_best=1)
        score, start, end = -np.inf, None, None
        context = record.fields["context"]
        if answers:
            first, last, score = answers[0]
            offsets = self._inputs.tokenizer.encode_with_offsets(context)
            start, end = span_characters(context, offsets, first, last)
        if self._unanswerable and none_score > score:
            start = end = None
        text = context[start:end] if start is not None else ""
        scores = {"score": float(score), "none_score": none_score}
        return {"text": text, "start": start, "end": end} | scores

    def gold(self, record: Record) -> Prediction:
        return {"answers": [answer["text"] for answer in answers_of(record)]}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        golds = {str(i): self.gold(record)["answers"] for i, record in enumerate(records)}
        texts = {str(i): prediction["text"] for i, prediction in enumerate(predictions)}
        return self._score(texts, golds)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        """The word of the context that holds the most letters of the question's words."""

        def guess(record: Record) -> str:
            asked = {word.lower() for word in re.findall(r"\w+", record.fields["question"])}
            likeness = lambda word: sum(len(w) for w in asked if w in word.lower())
            return max(re.findall(r"\w+", record.fields["context"]), key=likeness, default="")

        return {"the word most like the question": [{"text": guess(r)} for r in records]}


def answers_of(record: Record) -> list[dict[str, Any]]:
    """The gold answers of a record, none if it says that there is none.

    They are {"text", "answer_start"} each, as in SQuAD's files; or together, as TFDS and Hugging
    Face have them, two lists by these names.

    Raises:
      UserError: they are neither, or one does not stand in the context where it says.
    """
    if record.fields.get("is_impossible"):
        return []
    context, answers = text_field(*record, "context"), record.fields.get("answers", [])
    try:
        if isinstance(answers, dict):
            pairs = list(zip(answers["text"], answers["answer_start"], strict=True))
        else:
            pairs = [(answer["text"], answer["answer_start"]) for answer in answers]
    except (KeyError, TypeError, ValueError):
        pairs = [(None, None)]
    if not all(isinstance(text, str) and isinstance(start, int) for text, start in pairs):
        raise UserError(
            f"{record.name}: answers={answers!r} are not as in SQuAD, a list of "
            '{"text": ..., "answer_start": ...}'
        )
    answers = [{"text": text, "answer_start": start} for text, start in pairs]
    for text, start in pairs:
        found = context[start : start + len(text)] if start >= 0 else ""
        if not text or found != text:
            raise UserError(
                f"{record.name}: the answer {text!r} is not at character {start}, where the "
                f"context has {found!r}; mend it, or set data.on_error=skip"
            )
    return answers


def _in_context(batch: Batch, L: int) -> jax.Array:
    """B x L: whether a position holds a piece of the context."""
    at_B1, count_B1 = batch["context_B"][:, None], batch["num_context_B"][:, None]
    at_L = jnp.arange(L)[None]
    return (at_L >= at_B1) & (at_L < at_B1 + count_B1)
