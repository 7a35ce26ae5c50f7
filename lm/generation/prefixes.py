"""Remembers the caches of prompts that were read, for those that begin alike."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


class Prefixes:
    """Holds caches by the tokens that they are of, as many as fit into a number of bytes.

    A cache has a slot for each position, so that it also serves what shares only its beginning.
    The one that was not used for longest makes room for another.
    """

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._caches: OrderedDict[bytes, Any] = OrderedDict()  # The latest used is the last.
        self.num_bytes = 0

    def find(self, tokens: Sequence[int]) -> tuple[int, Any]:
        """Returns how many tokens the best of them shares, and its caches; 0 and None for none."""
        wanted = np.asarray(tokens, np.int32)
        best, best_key = 0, None
        for key in self._caches:
            num = _num_equal(np.frombuffer(key, np.int32), wanted)
            if num >= best and num:
                best, best_key = num, key
        if best_key is None:
            return 0, None
        self._caches.move_to_end(best_key)
        return best, self._caches[best_key]

    def add(self, tokens: Sequence[int], caches: Any) -> None:
        """Remembers a prompt, in place of those that are its beginning."""
        wanted = np.asarray(tokens, np.int32)
        own = _num_bytes(caches)
        if own > self._max_bytes:
            return
        for key in list(self._caches):
            of_key = np.frombuffer(key, np.int32)
            if _num_equal(of_key, wanted) == len(of_key):
                self._forget(key)
        self._caches[wanted.tobytes()] = caches
        self.num_bytes += own
        while self.num_bytes > self._max_bytes:
            self._forget(next(iter(self._caches)))

    def clear(self) -> None:
        """Forgets all."""
        self._caches.clear()
        self.num_bytes = 0

    def _forget(self, key: bytes) -> None:
        self.num_bytes -= _num_bytes(self._caches.pop(key))


def _num_equal(a: np.ndarray, b: np.ndarray) -> int:
    """[1, 2, 3] and [1, 2, 5, 6] begin with 2 equal ones."""
    num = min(len(a), len(b))
    differs = np.flatnonzero(a[:num] != b[:num])
    return int(differs[0]) if len(differs) else num


def _num_bytes(caches: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(caches))
