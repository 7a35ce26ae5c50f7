"""Tasks whose answer is text: translation and summarisation, and dialogue.

Dimension key:
  B batch    L length    M encoder length
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.chat.chat_template import ChatTemplate
from lm.chat.conversations import Conversation, asked, read_conversation, text_of
from lm.data.examples import Features, RowLayout
from lm.errors import UserError
from lm.formats.fields import Record, lookup
from lm.losses import likelihood
from lm.losses.likelihood import Sums
from lm.models.families import Family, init_params
from lm.models.layers import LazyLogits
from lm.models.parameters import Params
from lm.tasks.task import (
    Batch,
    DropoutKey,
    Prediction,
    Predictions,
    RecordOutputs,
    Records,
    Scores,
    Task,
    TaskObjective,
    UnfitFamily,
    apply,
)
from lm.tasks.text import CUT, TextInputs, segments, text_field, too_long
from lm.tokenizers.tokenizers import Tokenizer

# The model's output, the token that each of its predictions is about, and the weight of that.
Predicted = tuple[LazyLogits, jax.Array, jax.Array]
# (model, params, prompts) -> the tokens that follow each, without the end-of-text token.
Generate = Callable[[nn.Module, Params, Sequence[Sequence[int]]], list[list[int]]]


class DecoderText:
    """A text to go on from and its continuation, as one row of a decoder.

        tokens_BL    <s>  a   b   c  </s>
        weights_BL    0   0   1   1   0      where `a b` is the prompt, `c </s>` the answer

    A weight is that of the token that follows.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.layout = RowLayout({"tokens_BL": tokenizer.pad_id or 0}, joined="L")

    def features(self, ids: Sequence[np.ndarray], is_answer: Sequence[bool]) -> Features:
        """Makes a row of the parts of a text, each of which is to be learned or not."""
        return self.row(np.concatenate(ids), np.repeat(is_answer, list(map(len, ids))))

    def row(self, tokens_L: np.ndarray, learned_L: np.ndarray) -> Features:
        """Makes a row of a text, each token of which is to be learned or not."""
        tokens_L = tokens_L.astype(np.int32)
        # Shifted: position i predicts token i + 1, and the last one nothing.
        weights_L = np.append(learned_L[1:], False).astype(np.float32)
        return {"tokens_BL": tokens_L, "weights_BL": weights_L, "length_B": len(tokens_L)}

    def start(self) -> np.ndarray:
        """Returns the ids that a row begins with."""
        ids = [] if self._tokenizer.bos_id is None else [self._tokenizer.bos_id]
        return np.array(ids, np.int32)

    def output(
        self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey
    ) -> Predicted:
        """Returns the output for what follows each token, what does follow, and its weight."""
        tokens_BL = batch["tokens_BL"]
        segment_ids_BL, positions_BL = segments(batch["length_BE"], tokens_BL.shape[1])
        inputs = dict(tokens_BL=tokens_BL, positions_BL=positions_BL, segment_ids_BL=segment_ids_BL)
        output = apply(model, params, dropout_key, **inputs)
        # The last token of each text is followed by another text's first, with the weight 0.
        return output, jnp.roll(tokens_BL, -1, axis=1), batch["weights_BL"]


class EncoderDecoderText:
    """A text that the encoder reads, and one that the decoder writes, from the pad token on."""

    def __init__(self, tokenizer: Tokenizer):
        self._start_id = tokenizer.pad_id or 0
        fill = {"encoder_tokens_BM": self._start_id, "targets_BL": self._start_id}
        self.layout = RowLayout(fill)

    def features(self, source: np.ndarray, target: np.ndarray) -> Features:
        """Makes features of what is read and what is written, both with their last token."""
        return {
            "encoder_tokens_BM": np.asarray(source, np.int32),
            "encoder_length_B": len(source),
            "targets_BL": np.asarray(target, np.int32),
            "length_B": len(target),
        }

    def output(
        self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey
    ) -> Predicted:
        """Returns the output for each token given those before it, the token, its weight."""
        targets_BL = batch["targets_BL"]
        segment_ids_BL, _ = segments(batch["length_B"][:, None], targets_BL.shape[1])
        # T5's decoder starts from the pad token (Raffel et al. 2020); inputs are targets, shifted.
        start_B1 = jnp.full((targets_BL.shape[0], 1), self._start_id, targets_BL.dtype)
        M = batch["encoder_tokens_BM"].shape[1]
        encoder_segment_ids_BM, _ = segments(batch["encoder_length_B"][:, None], M)
        inputs = {
            "encoder_tokens_BM": batch["encoder_tokens_BM"],
            "encoder_segment_ids_BM": encoder_segment_ids_BM,
            "tokens_BL": jnp.concatenate([start_B1, targets_BL[:, :-1]], axis=1),
            "segment_ids_BL": segment_ids_BL,
        }
        output = apply(model, params, dropout_key, **inputs)
        # All of a target is learned, its end included.
        return output, targets_BL, (segment_ids_BL > 0).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class NextToken(TaskObjective):
    """Learns each token of an answer from those before it."""

    text: DecoderText | EncoderDecoderText  # How examples are laid out.
    _: dataclasses.KW_ONLY
    has_outputs: bool  # Whether `outputs` are the likelihoods of answers, or none.
    label_smoothing: float = 0.0  # In the loss alone; see `likelihood.cross_entropy`.

    def module(self, family: Family, model_config: Any) -> nn.Module:
        return family.module(model_config)

    def init_params(self, model: nn.Module, key: jax.Array) -> Params:
        return init_params(model, key)

    def loss(self, model: nn.Module, params: Params, batch: Batch, dropout_key: DropoutKey) -> Sums:
        predicted = self.text.output(model, params, batch, dropout_key)
        return likelihood.output_cross_entropy(*predicted, label_smoothing=self.label_smoothing)

    def outputs(self, model: nn.Module, params: Params, batch: Batch) -> dict[str, jax.Array]:
        if not self.has_outputs:
            return {}
        output, targets_BL, weights_BL = self.text.output(model, params, batch, None)
        # Each token as a batch of one, for vmap.
        tokens = [x[:, :, None, None] for x in (output.logits(), targets_BL, weights_BL)]
        sums = jax.vmap(jax.vmap(likelihood.cross_entropy))(*tokens)
        return {"nll_BL": sums["nll"], "weights_BL": weights_BL}


class Seq2Seq(Task):
    """Writes one text for another; a `Task`.

    Args:
      inputs: of an encoder-decoder or a decoder. At most `inputs.seq_len` tokens are read; in a
        decoder, both texts together have as many.
      source, target: the fields of a record; a list of targets are references of equal worth.
      prompt: what is read, with {source} in it.
      target_len: the most tokens that are written, the last one included.
      label_smoothing: see `likelihood.cross_entropy`; it is in the training loss alone.
      score: (predictions, references of each) -> metrics; `metrics` are their names.
      generate: writes.
    """

    def __init__(
        self,
        inputs: TextInputs,
        *,
        source: str,
        target: str,
        prompt: str,
        target_len: int,
        label_smoothing: float,
        score: Callable[[list[str], list[list[str]]], dict[str, float]],
        metrics: tuple[str, ...],
        generate: Generate,
    ):
        if inputs.family.architecture == "encoder":
            raise UnfitFamily("an encoder writes nothing; take a T5, GPT-2 or Llama for this task")
        if "{source}" not in prompt:
            raise UserError(f"task.prompt={prompt!r} must have {{source}} in it")
        if not 1 <= target_len < inputs.seq_len:
            raise UserError(
                f"task.target_len={target_len} must be at least 1 and less than "
                f"data.seq_len={inputs.seq_len}"
            )
        self.metrics, self.notes = metrics, inputs.notes
        self._tokenizer = inputs.tokenizer
        self._has_encoder = inputs.family.architecture == "encoder_decoder"
        self._text = (EncoderDecoderText if self._has_encoder else DecoderText)(self._tokenizer)
        self.layout = self._text.layout
        self.objective = NextToken(self._text, label_smoothing=label_smoothing, has_outputs=False)
        self._source, self._target, self._prompt = source, target, prompt
        self._seq_len, self._truncate = inputs.seq_len, inputs.truncate
        self._target_len = target_len
        self._score, self._generate = score, generate

    def encode(self, record: Record) -> list[Features]:
        target = self._tokenizer.encode_batch([self._references(record)[0]])[0]
        if len(target) >= self._target_len and not self._truncate:
            raise UserError(
                f"{record.name}: {len(target) + 1} tokens of {self._target!r}, the last one "
                f"included, do not fit task.target_len={self._target_len}; raise it, or cut long "
                "examples with data.truncate=True"
            )
        self.notes["cut to task.target_len"] += len(target) >= self._target_len
        # A cut target ends like a whole one, so that no model learns to go on for ever.
        target = np.append(target[: self._target_len - 1], self._tokenizer.eos_id)
        prompt = self._prompt_ids(record.name, text_field(*record, self._source))
        if self._has_encoder:
            return [self._text.features(prompt, target)]
        return [self._text.features([prompt, target], [False, True])]

    def read(self, record: Record) -> list[Features]:
        self._prompt_ids(record.name, text_field(*record, self._source))  # Raises, and counts.
        return []  # `predictions` writes from the record itself.

    def from_text(self, name: str, text: str) -> Record:
        return Record(name, {self._source: text})

    def prompt_ids(self, source: str) -> np.ndarray:
        """Returns what is read of a source."""
        return self._prompt_ids("the prompt", source)

    def _references(self, record: Record) -> list[str]:
        """Returns the texts that may be written, of which the first is learned."""
        try:
            value = lookup(record.fields, self._target)
        except KeyError:
            value = None
        if not isinstance(value, list | tuple):
            return [text_field(*record, self._target)]
        if not value:
            raise UserError(f"{record.name}: the field {self._target!r} is empty; give a text")
        numbered = {str(i): each for i, each in enumerate(value)}
        return [text_field(f"{record.name}, {self._target}", numbered, key) for key in numbered]

    def _prompt_ids(self, name: str, source: str) -> np.ndarray:
        """Tokenizes a prompt, its source cut so that the longest target has room behind it."""
        # Each by itself: as one text, pieces might reach over the source's edges.
        before, after = self._prompt.split("{source}", 1)
        before, source, after = self._tokenizer.encode_batch([before, source, after])
        if self._has_encoder:
            start, end, room = [], [self._tokenizer.eos_id], self._seq_len
        else:
            start, end, room = self._text.start(), [], self._seq_len - self._target_len
        source = self._cut(name, source, room - len(start) - len(before) - len(after) - len(end))
        return np.concatenate([start, before, source, after, end]).astype(np.int32)

    def _cut(self, name: str, ids: np.ndarray, room: int) -> np.ndarray:
        if room < 1:
            raise UserError(
                f"task.prompt={self._prompt!r} leaves no room for a source in "
                f"data.seq_len={self._seq_len}; shorten it, or raise data.seq_len in training"
            )
        if len(ids) <= room:
            return ids
        if not self._truncate:
            # As many as the whole row would have, special tokens and target included.
            raise too_long(name, len(ids) - room + self._seq_len, self._seq_len)
        self.notes[CUT] += 1
        return ids[:room]

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        sources = [text_field(*record, self._source) for record in records]
        prompts = [self.prompt_ids(source).tolist() for source in sources]
        written = self._generate(model, params, prompts)
        return [{"text": self._tokenizer.decode(ids).strip()} for ids in written]

    def gold(self, record: Record) -> Prediction:
        texts = self._references(record)
        return {"text": texts[0] if len(texts) == 1 else texts}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        references = [self._references(record) for record in records]
        return self._score([prediction["text"] for prediction in predictions], references)

    def baselines(self, train: Records, records: Records) -> dict[str, list[Prediction]]:
        sources = [text_field(*record, self._source).strip() for record in records]
        return {
            "a copy of the source": [{"text": source} for source in sources],
            "its first line": [{"text": source.splitlines()[0]} for source in sources],
        }


class Chat(Task):
    """Learns what an assistant says; a `Task` for decoders.

    Args:
      inputs: of a decoder; conversations longer than `inputs.seq_len` are cut at their end.
      template: turns conversations into tokens.
      messages: the field of a record that holds them; see `conversations.read_conversation`.
    """

    metrics = ("perplexity",)

    def __init__(self, inputs: TextInputs, *, template: ChatTemplate, messages: str):
        if inputs.family.architecture != "decoder":
            raise UnfitFamily("only decoders converse; take a GPT-2 or Llama for this task")
        self.template, self.notes = template, inputs.notes
        self._text = DecoderText(inputs.tokenizer)
        self.layout = self._text.layout
        self.objective = NextToken(self._text, has_outputs=True)
        self._seq_len, self._truncate = inputs.seq_len, inputs.truncate
        self._messages = messages

    def encode(self, record: Record) -> list[Features]:
        conversation = read_conversation(
            record.name, record.fields, self._messages, self.template.takes_role
        )
        rows = []
        for example in self.template.examples(record.name, conversation):
            length = len(example.ids)
            if length > self._seq_len:
                if not self._truncate:
                    raise too_long(record.name, length, self._seq_len)
                self.notes[CUT] += 1
            cut = slice(self._seq_len)
            row = self._text.row(example.ids[cut], example.is_answer[cut])
            if row["weights_BL"].any():  # A cut may leave nothing but a user's words.
                rows.append(row)
            self.notes.update(example.notes)
        if not rows:
            raise UserError(f"{record.name}: no answer is left in the first {self._seq_len} tokens")
        return rows

    def read(self, record: Record) -> list[Features]:
        self.asked_ids(record)  # Raises.
        return []

    def from_text(self, name: str, text: str) -> Record:
        return Record(name, {self._messages: [{"role": "user", "content": text}]})

    def asked_ids(self, record: Record) -> np.ndarray:
        """Returns what precedes the answer to a record's last message.

        Raises UserError where that is an assistant's, or there is none.
        """
        conversation = asked(record.name, record.fields, self._messages, self.template.takes_role)
        return self.template.prompt(record.name, conversation)

    def prompt_ids(self, message: str) -> np.ndarray:
        """Returns what precedes the answer to a user's first message."""
        messages = [{"role": "user", "content": message}]
        return self.template.prompt("the prompt", Conversation(messages))

    def predictions(
        self, records: Records, outputs: RecordOutputs, model: nn.Module, params: Params
    ) -> list[Prediction]:
        total = lambda name: [
            math.fsum(float(x) for o in of_record for x in o[name]) for of_record in outputs
        ]
        nll, num_tokens = total("nll_BL"), map(int, total("weights_BL"))
        return [{"nll": x, "num_tokens": n} for x, n in zip(nll, num_tokens, strict=True)]

    def gold(self, record: Record) -> Prediction:
        answers = [m for m in lookup(record.fields, self._messages) if m["role"] == "assistant"]
        return {"answers": list(map(text_of, answers))}

    def score(self, records: Records, predictions: Predictions) -> Scores:
        nll = math.fsum(prediction["nll"] for prediction in predictions)
        num_tokens = sum(prediction["num_tokens"] for prediction in predictions)
        return {"perplexity": math.exp(min(nll / num_tokens, 700.0))}  # exp(710) overflows.
