"""Words and pieces: which pieces a word is, for tasks that label words.

Dimension key: L pieces, W words.
"""

from collections.abc import Sequence

import numpy as np

from lm.data.tokenizers import Tokenizer


def encode_words(
    tokenizer: Tokenizer, words: Sequence[str], space_before: Sequence[bool] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The pieces of words, and the word of each piece; every word has one piece at least.

    Each word is encoded by itself, behind a space if one precedes it, so that no piece is of two:

        words     the  unbelievable  thing       北  京
        pieces    the  ▁un  believ  able  ▁thing  北  京
        word_of   0    1    1       1     2       3  4

    Args:
      tokenizer: any.
      words: at least one.
      space_before: of each word; None: of all but the first.

    Returns:
      ids and word_of, both int32 of shape (L,).
    """
    if space_before is None:
        space_before = [False] + [True] * (len(words) - 1)
    texts = [
        f" {word}" if spaced else word for word, spaced in zip(words, space_before, strict=True)
    ]
    encoded = tokenizer.encode_batch(texts)
    unknown = np.array([_unknown_id(tokenizer)], np.int32)
    # A word may be nothing to a tokenizer that drops marks and control characters.
    encoded = [ids if len(ids) else unknown for ids in encoded]
    word_of = np.repeat(np.arange(len(words), dtype=np.int32), list(map(len, encoded)))
    return np.concatenate(encoded).astype(np.int32), word_of


def first_pieces(word_of: np.ndarray) -> np.ndarray:
    """(L,) -> (W,): where each word's first piece stands. 0 0 1 2 2 gives 0 2 3."""
    return np.flatnonzero(np.diff(word_of, prepend=-1)).astype(np.int32)


def _unknown_id(tokenizer: Tokenizer) -> int:
    """The id that stands for what a tokenizer cannot say; pad where it can say everything."""
    ids = (tokenizer.id_of(name) for name in ("<unk>", "[UNK]", "<|endoftext|>"))
    return next((i for i in ids if i is not None), tokenizer.pad_id or 0)
