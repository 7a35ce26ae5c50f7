"""Vectors of tokens by what stands around them in a text; tokens that are used alike are near.

Dimension key: L tokens of a text.
"""

import itertools
from collections.abc import Iterable

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

_WINDOW = 5  # Tokens to each side.
_MOST = 1_000_000  # Tokens whose pairs are held before they are counted.
_LEAST = 5  # How often a token must be there: of fewer, neighbours say little.


def by_neighbours(texts: Iterable[np.ndarray], vocab_size: int, width: int = 64) -> np.ndarray:
    """Factors positive pointwise mutual information (Levy & Goldberg 2014, section 4).

    Row i of the result, tokens x `width`, is that of token i: a left singular vector's part times
    the root of its value. It is 0 for tokens that the texts have fewer than 5 times.

    Args:
      texts: ids of each.
      vocab_size: of the tokenizer.
      width: of the vectors; less where fewer tokens are there.
    """
    pairs = sparse.csr_array((vocab_size, vocab_size), dtype=np.float64)
    frequency = np.zeros(vocab_size, np.int64)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    for ids_L in itertools.chain(texts, [None]):
        if ids_L is not None:
            frequency += np.bincount(ids_L, minlength=vocab_size)
            held += [(ids_L[:-step], ids_L[step:]) for step in range(1, _WINDOW + 1)]
        if ids_L is None or sum(len(left) for left, _ in held[::_WINDOW]) > _MOST:
            at = tuple(map(np.concatenate, zip(*held, strict=True))) if held else ([], [])
            found = sparse.coo_array((np.ones(len(at[0])), at), shape=pairs.shape).tocsr()
            pairs, held = pairs + found + found.T, []
    frequent = np.flatnonzero(frequency >= _LEAST)
    vectors = np.zeros((vocab_size, width))
    if len(frequent) <= 2:
        return vectors
    counts = pairs[frequent][:, frequent].tocoo()
    sums = counts.sum(axis=1)
    information = np.log(
        counts.data * sums.sum() / (sums[counts.coords[0]] * sums[counts.coords[1]])
    )
    kept = information > 0
    positive = sparse.coo_array(
        (information[kept], tuple(at[kept] for at in counts.coords)), shape=counts.shape
    )
    width = min(width, len(frequent) - 1)
    # A start of its own would be drawn anew each time.
    left, values, _ = svds(positive.tocsr(), k=width, v0=np.ones(len(frequent)))
    vectors[frequent, :width] = left * np.sqrt(np.maximum(values, 0))
    return vectors
