"""Tells objectives which ids of a tokenizer are special, and how tokens make words.

Dimension key: V vocabulary.
"""

import dataclasses

import numpy as np

from lm.tokenizers.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """Ids of one tokenizer.

    pad_id: 0 where the tokenizer has none; what stands in empty places, and what a decoder that has
      an encoder starts from.
    eos_id, mask_id: None where there is no such token.
    sentinel_ids: of `<extra_id_0>`, `<extra_id_1>`, ... as far as they go.
    special_V: True for what is no text: control tokens, the mask, sentinels.
    joins_left_V, joins_right_V: whether a token may be of one word with what precedes or follows
      it: letters and digits are, spaces, punctuation and Chinese characters are not.
    """

    pad_id: int
    eos_id: int | None
    mask_id: int | None
    sentinel_ids: np.ndarray
    special_V: np.ndarray
    joins_left_V: np.ndarray
    joins_right_V: np.ndarray

    @property
    def ordinary(self) -> np.ndarray:
        """Returns the ids of text."""
        return np.flatnonzero(~self.special_V)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """Asks the tokenizer about each of its tokens."""
    sentinels = []
    while (token_id := tokenizer.id_of(f"<extra_id_{len(sentinels)}>")) is not None:
        sentinels.append(token_id)
    mask_id = tokenizer.mask_id
    special_V = np.array([tokenizer.is_special(i) for i in range(tokenizer.vocab_size)])
    special_V[sentinels] = True
    if mask_id is not None:
        special_V[mask_id] = True
    texts = [tokenizer.text_of(i) for i in range(tokenizer.vocab_size)]
    return Vocabulary(
        pad_id=tokenizer.pad_id or 0,
        eos_id=tokenizer.eos_id,
        mask_id=mask_id,
        sentinel_ids=np.array(sentinels, np.int32),
        special_V=special_V,
        joins_left_V=np.array([_joins(t[:1]) for t in texts]) & ~special_V,
        joins_right_V=np.array([_joins(t[-1:]) for t in texts]) & ~special_V,
    )


# Ideographs, by block; Hiragana and Katakana join, as letters do.
_CHINESE = [(0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF)]


def is_chinese(character: str) -> bool:
    """Whether it is an ideograph."""
    return any(first <= ord(character) <= last for first, last in _CHINESE)


def _joins(character: str) -> bool:
    if character == "\ufffd":  # Part of a character that has no token of its own.
        return True
    return (character.isalnum() or character == "_") and not any(map(is_chinese, character))
