"""Words and pieces: which pieces a word is, for tasks that label words.

Dimension key: L pieces, W words.
"""

import unicodedata
from collections.abc import Sequence

import numpy as np

from lm.tokenizers.tokenizers import Tokenizer
from lm.tokenizers.vocabulary import is_chinese


def encode_words(
    tokenizer: Tokenizer, words: Sequence[str], space_before: Sequence[bool] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Encodes each word by itself: returns the pieces, and the word of each piece.

    Every word has one piece at least, and no piece is of two:

        words         the   unbelievable         北     京
        space_before  False True                 True   False
        pieces        the   ▁un   believ   able  ▁北    京
        word_of_L     0     1     1        1     2      3

    Where no piece of the whole text is of two words, these are its pieces.

    Args:
      tokenizer: any.
      words: of one text, in order.
      space_before: of each word; None means all but the first.

    Returns:
      The ids and word_of_L, both int32 of shape (L,).
    """
    if space_before is None:
        space_before = [i > 0 for i in range(len(words))]
    texts = [
        f" {word}" if spaced else word for word, spaced in zip(words, space_before, strict=True)
    ]
    encoded = tokenizer.encode_inside(texts)
    # Only the first word gets the space that some tokenizers put before a text.
    if words and not space_before[0]:
        encoded[0] = tokenizer.encode_batch(texts[:1])[0]
    # In place of a word that is nothing to the tokenizer, as a lone accent to one that drops them.
    nothing = tokenizer.encode_inside([" "])[0][:1]
    if tokenizer.unk_id is not None:
        nothing = np.array([tokenizer.unk_id], np.int32)
    encoded = [ids if len(ids) else nothing for ids in encoded]
    word_of_L = np.repeat(np.arange(len(words), dtype=np.int32), list(map(len, encoded)))
    return np.concatenate([*encoded, np.array([], np.int32)]), word_of_L


def split_words(text: str) -> list[tuple[int, int]]:
    """Finds where the words of a text stand, as BERT's tokenizers do before they cut them up.

    Spaces and control characters part words; punctuation and Chinese characters are words alone.
    `Köln, 北京!` has the words Köln `,` 北 京 `!`: (0, 4) (4, 5) (6, 7) (7, 8) (8, 9).
    """
    words: list[tuple[int, int]] = []
    for i, character in enumerate(text):
        if character.isspace() or unicodedata.category(character) == "Cc":
            continue
        goes_on = words and words[-1][1] == i and not _is_alone(character)
        if goes_on and not _is_alone(text[i - 1]):
            words[-1] = (words[-1][0], i + 1)
        else:
            words.append((i, i + 1))
    return words


def _is_alone(character: str) -> bool:
    """Whether a character is a word by itself: punctuation, or Chinese."""
    is_punctuation = unicodedata.category(character).startswith("P") or character in _SYMBOLS
    return is_punctuation or is_chinese(character)


_SYMBOLS = "$+<=>^`|~"  # Of ASCII: punctuation to BERT, and not to Unicode.


def first_pieces(word_of_L: np.ndarray) -> np.ndarray:
    """Finds each word's first piece, (L,) -> (W,), int32: 0 0 1 2 2 gives 0 2 3.

    Of a text that is cut at its end, these are the words that begin in what is left.
    """
    # Before the first word stands -1, so that its first piece is a change too.
    return np.flatnonzero(np.diff(word_of_L, prepend=-1)).astype(np.int32)
