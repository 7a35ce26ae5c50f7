"""Counts what a tokenizer makes of a text: how far it spells a language in pieces.

Dimension key: L tokens.
"""

import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from lm.tokenizers.tokenizers import Tokenizer
from lm.tokenizers.vocabulary import is_chinese

_WORD = re.compile(r"\w+")


class Counts(NamedTuple):
    """Sums over texts, from which the shares below are made.

    num_parts: tokens that are less than a character.
    num_unknown: tokens that stand for text which the tokenizer does not know.
    num_words: words; of Chinese, each character is one.
    num_continued: words of more than one token (Rust et al. 2021, section 3.2).
    num_word_tokens: tokens of words; one that is of two words counts for both.
    """

    num_tokens: int
    num_characters: int
    num_bytes: int
    num_parts: int
    num_unknown: int
    num_words: int
    num_continued: int
    num_word_tokens: int

    def measures(self) -> dict[str, float]:
        """Returns the measures by name; 0 where there is nothing to divide by."""
        share = lambda part, whole: part / whole if whole else 0.0
        return {
            "tokens a character": share(self.num_tokens, self.num_characters),
            "bytes a token": share(self.num_bytes, self.num_tokens),
            "tokens a word": share(self.num_word_tokens, self.num_words),
            "continued words": share(self.num_continued, self.num_words),
            "parts of characters": share(self.num_parts, self.num_tokens),
            "unknown tokens": share(self.num_unknown, self.num_tokens),
        }


def count(tokenizer: Tokenizer, texts: Iterable[str]) -> Counts:
    """Counts tokens, words and what of both is cut, over all texts.

    "the 中", as the | ▁ | <0xE4> | <0xB8> | <0xAD>: 5 tokens of 5 characters, 7 bytes; 3 tokens
    are parts of a character; 2 words, of which the second is continued, of 1 + 3 tokens
    """
    total = np.zeros(len(Counts._fields), np.int64)
    for text in texts:
        found = tokenizer.encode_with_offsets(text)
        words = [span for match in _WORD.finditer(text) for span in _words(match)]
        first, last = np.array(words, np.int32).reshape(-1, 2).T
        # Of tokens in order, those that end behind a word's start and start before its end.
        tokens_of_word = np.searchsorted(found.starts, last, "left") - np.searchsorted(
            found.ends, first, "right"
        )
        total += (
            len(found.ids),
            len(text),
            len(text.encode()),
            _num_parts(found.starts, found.ends),
            np.count_nonzero(found.ids == tokenizer.unk_id) if tokenizer.unk_id is not None else 0,
            len(words),
            np.count_nonzero(tokens_of_word > 1),
            np.sum(tokens_of_word),
        )
    return Counts(*total.tolist())


def _words(match: re.Match) -> Iterable[tuple[int, int]]:
    """Yields where the words of a run of letters and digits start and end."""
    text, start = match[0], match.start()
    begun = 0
    for i, character in enumerate(text):
        if is_chinese(character):
            if begun < i:
                yield start + begun, start + i
            yield start + i, start + i + 1
            begun = i + 1
    if begun < len(text):
        yield start + begun, start + len(text)


def _num_parts(starts_L: np.ndarray, ends_L: np.ndarray) -> int:
    """Counts tokens that share their first or last character with the token beside them."""
    # Each part of a character has the whole of it; a space that was added has nothing.
    shared_L = (starts_L[1:] < ends_L[:-1]) & (starts_L[1:] < ends_L[1:])
    is_part_L = np.zeros(len(starts_L), bool)
    is_part_L[1:] |= shared_L
    is_part_L[:-1] |= shared_L
    return int(np.count_nonzero(is_part_L))
