"""The mixing function that permutations and hashes here are made of."""

import numpy as np


def mix(x: np.ndarray) -> np.ndarray:
    """Gives the image of each 64-bit number, uint64 of any shape, under one fixed permutation.

    The finaliser of SplitMix64 (Steele et al. 2014), modulo 2**64: each bit reaches every other.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def numbers(count: int) -> np.ndarray:
    """Gives the first numbers of SplitMix64 started at 0, uint64 of shape (count,)."""
    # Each state is the one before it plus the golden ratio's bits.
    return mix(np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
