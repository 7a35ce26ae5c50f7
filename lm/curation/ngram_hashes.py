"""Text -> 64-bit hashes of its n-grams of units, the same on every machine.

Dimension key: U units, G n-grams.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np

from lm.curation.text_units import normalized, units
from lm.system import splitmix


def unit_hashes(text: str) -> np.ndarray:
    """Gives a hash of each unit of a text, in order and after normalisation: uint64 of shape (U,).

    What differs in case, width and punctuation alone has the same: "A, b." and "ａ b".
    """
    return hashes_of(units(normalized(text)))


def hashes_of(found: Sequence[str]) -> np.ndarray:
    """Gives a hash of each of some normalised units: uint64 of shape (U,)."""
    return np.fromiter(map(_hash, found), np.uint64, len(found))


# As many as most words of a text are among; a miss costs a microsecond.
@functools.lru_cache(maxsize=2**17)
def _hash(unit: str) -> int:
    return int.from_bytes(hashlib.blake2b(unit.encode(), digest_size=8).digest(), "little")


def ngram_hashes(hashes_U: np.ndarray, n: int) -> np.ndarray:
    """Gives a hash of each n units in a row, in order: uint64 of shape (U - n + 1,), or (0,).

    Two n-grams that differ share one with probability 2**-64, so that sets of hashes stand for the
    sets of n-grams.
    """
    num_ngrams = max(0, len(hashes_U) - n + 1)
    # Factors tell the units' places apart, and the last one n-grams of different lengths.
    factors = splitmix.numbers(n + 1) | np.uint64(1)
    total_G = np.full(num_ngrams, factors[n])
    for place in range(n):
        total_G += hashes_U[place : place + num_ngrams] * factors[place]
    return splitmix.mix(total_G)


def ngram_set(text: str, n: int) -> np.ndarray:
    """Gives the different n-grams of a text, as sorted hashes: uint64 of shape (G,).

    A text of fewer than n units has one, which is all of it; one without units has none.
    """
    hashes_U = unit_hashes(text)
    return np.unique(ngram_hashes(hashes_U, max(1, min(n, len(hashes_U)))))
