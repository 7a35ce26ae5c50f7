"""From the texts of an example to what a model's body reads.

Dimension key: B batch, L length, E texts of a row.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.corpus.documents import LONG_CHARS, Document, cut_long
from lm.data.examples import RowLayout
from lm.errors import UserError
from lm.formats.fields import kind_of, lookup, names_of
from lm.models.families import Family
from lm.tokenizers.tokenizers import Tokenizer

CUT = "cut to data.seq_len"  # What is counted of examples that were too long.


class TextInputs:
    """Frames texts with special tokens, cuts them to length, and makes a body's inputs.

    A tokenizer that came from a folder has its own frame, as `[CLS] a [SEP] b [SEP]` of BERT and
    `<s> a </s></s> b </s>` of RoBERTa. Where it puts nothing at the end, and the folder's model has
    no head that learned so, and for tokenizers that were trained here, one text is `<s> a </s>` and
    a pair `<s> a </s> b </s>`; one without a first token leaves it out.

    Args:
      tokenizer: raises UserError without an end-of-text token.
      family: whose body will read.
      num_types: of the body's segments; 1 where it has none.
      seq_len: the most tokens of an example, special ones included.
      truncate: whether longer ones are cut (and counted) or refused.
    """

    def __init__(
        self, tokenizer: Tokenizer, family: Family, *, num_types: int, seq_len: int, truncate: bool
    ):
        if tokenizer.eos_id is None:
            raise UserError("this task needs a tokenizer with an end-of-text token, such as </s>")
        self.tokenizer, self.family = tokenizer, family
        self.seq_len, self.truncate = seq_len, truncate
        self.notes: collections.Counter[str] = collections.Counter()
        # T5 has relative positions, by which its attention knows where a token stands.
        self._with_positions = family.architecture != "encoder_decoder"
        self._with_types = num_types > 1

    def encode(self, name: str, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns the features of one or two texts; `name` is what errors call the example."""
        return self.frame(name, [self._ids(name, text) for text in texts])

    def _ids(self, name: str, text: str) -> np.ndarray:
        """Tokenizes a text, or as much of a long one as can have room."""
        if len(text) > LONG_CHARS:  # Tokenizers take time and memory for all of it, also to cut it.
            (first, *_) = cut_long([Document(text, "")])
            ids = self.tokenizer.encode_batch([first.text])[0]
            if len(ids) > self.seq_len:
                if not self.truncate:
                    raise too_long(name, f"more than {len(ids)}", self.seq_len)
                return ids
        return self.tokenizer.encode_batch([text])[0]

    def frame(self, name: str, parts: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the features of one or two texts that are tokenized already."""
        frame = self.tokenizer.frame(len(parts))
        parts = self._cut(name, parts, self.seq_len - frame.num_special)
        tokens_L, types_L = frame.join(parts)
        if not len(tokens_L):
            raise UserError(f"{name}: the tokenizer drops all of the text")
        return self.features(tokens_L, types_L)

    def features(self, tokens_L: np.ndarray, types_L: np.ndarray) -> dict[str, np.ndarray]:
        """Returns the features of texts that have their special tokens."""
        features = {"tokens_BL": tokens_L, "length_B": len(tokens_L)}
        return features | ({"types_BL": types_L} if self._with_types else {})

    def frame_words(
        self, name: str, ids: np.ndarray, first_W: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Returns the features of one text in words, and where in it each word's first piece is.

        Args:
          name: what errors call the example.
          ids: of its pieces.
          first_W: the index of each word's first piece.
        """
        features = self.frame(name, [ids])
        frame = self.tokenizer.frame(1)
        num_start, num_kept = len(frame.special_ids[0]), features["length_B"] - frame.num_special
        # A text that is cut ends with the last word that begins in what is left.
        return features, first_W[first_W < num_kept] + num_start

    def _cut(self, name: str, parts: Sequence[np.ndarray], room: int) -> list[np.ndarray]:
        """Leaves `room` tokens, taken from the end of the longer part until both are equal."""
        lengths = [len(part) for part in parts]
        if sum(lengths) <= room:
            return list(parts)
        if room < len(parts):
            raise UserError(
                f"data.seq_len={self.seq_len} leaves no room for text between special tokens; "
                "raise it"
            )
        if not self.truncate:
            raise too_long(name, sum(lengths) - room + self.seq_len, self.seq_len)
        self.notes[CUT] += 1
        if len(parts) == 1:
            return [parts[0][:room]]
        # An odd token stays with the longer part, the second of equals, as in `transformers`.
        shorter = lengths.index(min(lengths))
        kept = min(lengths[shorter], room // 2)
        lengths = [kept if i == shorter else room - kept for i in range(2)]
        return [part[:n] for part, n in zip(parts, lengths, strict=True)]

    def inputs(self, batch: Mapping[str, jax.Array]) -> dict[str, Any]:
        """Makes the keyword arguments of a body from a batch of `encode`'s features."""
        tokens_BL = batch["tokens_BL"]
        segment_ids_BL, positions_BL = segments(lengths_of(batch), tokens_BL.shape[1])
        inputs = {"tokens_BL": tokens_BL, "segment_ids_BL": segment_ids_BL}
        if self._with_positions:
            inputs["positions_BL"] = positions_BL
        if self._with_types:
            inputs["types_BL"] = batch["types_BL"]
        return inputs

    def empty(self) -> dict[str, jax.Array]:
        """Makes a batch of one token, by which parameters get their shapes."""
        one_BL = jnp.zeros((1, 1), jnp.int32)
        return {"tokens_BL": one_BL, "types_BL": one_BL, "length_BE": jnp.ones((1, 1), jnp.int32)}

    def layout(self, joined: str, *places: str) -> RowLayout:
        """Says how examples share rows; see `RowLayout`."""
        return RowLayout({"tokens_BL": self.tokenizer.pad_id or 0}, joined, places)


def lengths_of(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Returns the lengths of the texts of each row, B x E; of one text where none is shared."""
    return batch["length_BE"] if "length_BE" in batch else batch["length_B"][:, None]


def segments(length_BE: jax.Array, L: int) -> tuple[jax.Array, jax.Array]:
    """Says which text of its row a token belongs to, and where in it the token stands: B x L twice.

    Lengths 3, 2 in a row of 6 make the segments 1 1 1 2 2 0 and the positions 0 1 2 0 1 2. Padding
    is segment 0, which no text attends to.
    """
    at_L, end_BE = jnp.arange(L), jnp.cumsum(length_BE, axis=1)
    # How many texts have ended before a token: the index of its own.
    text_BL = jnp.sum(at_L[None, :, None] >= end_BE[:, None, :], axis=2)
    text_BL = jnp.minimum(text_BL, length_BE.shape[1] - 1)
    start_BL = jnp.take_along_axis(end_BE - length_BE, text_BL, axis=1)
    is_token_BL = at_L[None] < end_BE[:, -1:]
    return jnp.where(is_token_BL, text_BL + 1, 0).astype(jnp.int32), at_L[None] - start_BL


def too_long(name: str, length: int | str, seq_len: int) -> UserError:
    """Makes the error of an example that does not fit."""
    return UserError(
        f"{name}: {length} tokens do not fit data.seq_len={seq_len}; cut long examples with "
        "data.truncate=True, or raise it in training"
    )


def needs_fields(name: str, *fields: str) -> UserError:
    """Makes the error of plain text where a task reads more than one field."""
    return UserError(
        f"{name}: plain text is not enough for this task; write JSON Lines with the fields "
        f"{' and '.join(map(repr, fields))}"
    )


def text_field(name: str, fields: Mapping[str, Any], key: str) -> str:
    """Returns a field that must hold text; raises UserError if it is missing, no text, or empty."""
    try:
        text = lookup(fields, key)
        found = f"is {kind_of(text)}"
    except KeyError:
        text, found = None, "is missing"
    if not isinstance(text, str):
        there = names_of(fields)
        raise UserError(f"{name}: the field {key!r} {found}, and text is needed; there are {there}")
    if not text.strip():
        raise UserError(f"{name}: the field {key!r} is empty; remove the example, or mend it")
    return text
