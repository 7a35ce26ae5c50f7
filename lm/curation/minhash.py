"""MinHash: few numbers of a set, whose agreement with another's estimates what the sets share.

Broder 1997; banding as in Leskovec et al., Mining of Massive Datasets, section 3.4.

Dimension key: G elements of a set, H hashes, R bands.
"""

import numpy as np

from lm.system import splitmix

_AT_ONCE = 512  # Elements, so that what is computed of them stays in a core's cache.


def signature(elements_G: np.ndarray, num_hashes: int) -> np.ndarray:
    """Gives the least image of a set under each of some permutations: uint64 of shape (H,).

    The share of places where two sets' signatures agree estimates their Jaccard similarity, without
    bias and with variance s (1 - s) / H.

    Args:
      elements_G: at least one; hashes that are spread over all 64-bit numbers.
      num_hashes: H.
    """
    salts_H1 = splitmix.numbers(num_hashes)[:, None]
    parts = np.split(elements_G, range(_AT_ONCE, len(elements_G), _AT_ONCE))
    # XOR with a salt and then a mixing permutation is another permutation for each salt.
    return np.min([splitmix.mix(part_G ^ salts_H1).min(axis=1) for part_G in parts], axis=0)


def band_keys(signature_H: np.ndarray, num_bands: int) -> np.ndarray:
    """Gives a key of each band, equal where two signatures agree in the whole band: uint64 (R,).

    Keys of different bands differ. Two sets of similarity s share one of b bands of r rows with
    probability 1 - (1 - s**r)**b.
    """
    rows_RH = signature_H.reshape(num_bands, -1)
    factors = splitmix.numbers(rows_RH.shape[1]) | np.uint64(1)
    return splitmix.mix((rows_RH * factors).sum(axis=1) + splitmix.numbers(num_bands))
