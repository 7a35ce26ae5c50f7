"""Extractive question answering: the part of a context that answers a question, if any does.

Dimension key:
  B batch    L length    A candidate answers    E lengths of an answer
"""

import dataclasses
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
    SAMPLE_TEXT,
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


@dataclasses.dataclass(frozen=True)
class AnswerSpans(TaskObjective):
    """Learns where an answer starts and ends."""

    inputs: TextInputs
    max_answer_len: int  # Pieces of the longest answer that is predicted.

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return heads.TokenHead(family.body(model_config), 2)

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        return model.init(key, self.inputs.inputs(self.inputs.empty()))["params"]

    def _logits(
        self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey
    ) -> tuple[jax.Array, jax.Array]:
        """Gives the logits of each position to be the start, and the end: B x L each."""
        logits_BL2 = apply(model, params, dropout_key, self.inputs.inputs(batch))
        at_L = jnp.arange(logits_BL2.shape[1])[None]
        start_B1, length_B1 = batch["context_B"][:, None], batch["num_context_B"][:, None]
        is_context_BL = (at_L >= start_B1) & (at_L < start_B1 + length_B1)
        is_none_BL = at_L == batch["none_B"][:, None]
        # Finite, since a row that is all -inf would have NaN for its softmax.
        hide = lambda x_BL: jnp.where(is_context_BL | is_none_BL, x_BL, -1e30)
        return hide(logits_BL2[..., 0]), hide(logits_BL2[..., 1])

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        """Averages the cross-entropies of start and end; a target is a window."""
        start_BL, end_BL = self._logits(model, params, batch, dropout_key)
        nll = lambda logits_BL, target_B: likelihood.cross_entropy(
            logits_BL[:, None], target_B[:, None], batch["weight_B"][:, None]
        )
        both = nll(start_BL, batch["start_B"]), nll(end_BL, batch["end_B"])
        return jax.tree.map(lambda a, b: (a + b) / 2, *both)

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        """Gives each window's best answers, in pieces of the context, and the score of none."""
        spans = best_spans(
            *self._logits(model, params, batch, None),
            batch["context_B"],
            batch["num_context_B"],
            max_length=self.max_answer_len,
            num_best=_NUM_CANDIDATES,
            none_at_B=batch["none_B"],
        )
        return spans._asdict() | {"shift_B": batch["shift_B"]}


class QuestionAnswering(Task):
    """A `Task` on records as SQuAD has them (Devlin et al. 2019, sections 4.2 and 4.3).

    A question and a window of its context are read as a pair.

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
        self.notes, self.layout = inputs.notes, inputs.layout("")
        self.objective = AnswerSpans(inputs, max_answer_len)
        self._inputs, self._stride, self._max_answer_len = inputs, stride, max_answer_len
        self._unanswerable, self._score = unanswerable, _SCORES[scorer]
        # What "no answer here" points at: the first token, or a decoder's last, which has seen all.
        self._none_is_last = inputs.family.architecture == "decoder"

    def encode(self, record: Record) -> list[Features]:
        answers = answers_of(record)
        if not answers and not self._unanswerable:
            raise UserError(
                f"{record.name}: has no answer, as in SQuAD 2.0; set task.unanswerable=True"
            )
        if not answers:
            return self.read(record)
        answer = answers[0]  # Training sees the first; scores take the best of all.
        offsets = self._inputs.tokenizer.encode_with_offsets(text_field(*record, "context"))
        span = answer_span(offsets.starts, offsets.ends, answer["answer_start"], answer["text"])
        if span is None:
            raise UserError(f"{record.name}: the tokenizer drops all of the answer")
        examples = [self._example(window, span) for window in self._windows(record, offsets)]
        # No window may hold all of an answer that is longer than windows overlap.
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

    def sample(self) -> Record:
        return Record("sample", dict.fromkeys(("question", "context"), SAMPLE_TEXT))

    def _windows(self, record: Record, offsets: Offsets) -> list[Window]:
        """Makes pairs of the question and parts of its context, whose pieces have these offsets."""
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

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        return [self._prediction(*pair) for pair in zip(records, outputs, strict=True)]

    def _prediction(self, record: Record, of_windows: Sequence[Outputs]) -> Prediction:
        """Chooses the best answer over all windows, or none where that scores more."""
        rows = lambda name: np.stack([window[name] for window in of_windows])
        spans = BestSpans(*map(rows, BestSpans._fields))
        answers, none_score = best_answers(rows("shift_B"), spans, num_best=1)
        score, start, end = -np.inf, None, None
        context = record.fields["context"]
        if answers:
            first, last, score = answers[0]
            offsets = self._inputs.tokenizer.encode_with_offsets(context)
            start, end = span_characters(context, offsets, first, last)
        # At a margin of 0, where Devlin et al. tune one on the validation split.
        if self._unanswerable and none_score > score:
            start = end = None
        text = context[start:end] if start is not None else ""
        scores = {"score": float(score), "none_score": none_score}
        return {"text": text, "start": start, "end": end} | scores

    def gold(self, record: Record) -> Prediction:
        return {"answers": [answer["text"] for answer in answers_of(record)]}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        # The scorers go by the ids of questions, for which places stand.
        golds = {str(i): self.gold(record)["answers"] for i, record in enumerate(records)}
        texts = {str(i): prediction["text"] for i, prediction in enumerate(predictions)}
        return self._score(texts, golds)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        """Answers with the word of the context that holds most letters of the question's words."""

        def guess(record: Record) -> str:
            asked = {word.lower() for word in re.findall(r"\w+", record.fields["question"])}
            likeness = lambda word: sum(len(w) for w in asked if w in word.lower())
            return max(re.findall(r"\w+", record.fields["context"]), key=likeness, default="")

        return {"the word most like the question": [{"text": guess(r)} for r in records]}


def answers_of(record: Record) -> list[dict[str, Any]]:
    """Returns the gold answers of a record as {"text", "answer_start"}, as in SQuAD's files.

    There are none where the record says `is_impossible`. Raises UserError where the field is no
    such list, or an answer is not in the context where it says.
    """
    if record.fields.get("is_impossible"):
        return []
    context, answers = text_field(*record, "context"), record.fields.get("answers", [])
    try:
        if isinstance(answers, dict):  # Two lists by these names, as of TFDS and Hugging Face.
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
    for text, start in pairs:
        found = context[start : start + len(text)] if start >= 0 else ""  # Not from the end.
        if not text or found != text:
            raise UserError(
                f"{record.name}: the answer {text!r} is not at character {start}, where the "
                f"context has {found!r}; mend it, or set data.on_error=skip"
            )
    return [{"text": text, "answer_start": start} for text, start in pairs]
