"""Batches in few shapes, all of which can be compiled before the first text comes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from lm.data.examples import Features, RowLayout, lay_out, sizes_by_letter
from lm.generation import decoding

# Tokens of a batch, about. Matrices are laid out anew for each: of a CPU's time that is a sixth at
# 128 tokens, which one short text costs as well. Other devices wait for launches.
_TOKENS_ON_CPU, _TOKENS = 128, 4096


class Few(NamedTuple):
    """Says which texts are computed together, and in what shape."""

    indices: list[int]
    num_rows: int
    length: int


class FewShapes:
    """Chooses shapes: lengths are 32, 64, 96, 128, 192, 256, 384, ... or `longest`, each with one
    number of rows.

    So a text is computed in a shape that depends on nothing but its length, whoever else is there:
    float32 rounds otherwise in batches of other shapes.

    Args:
      longest: tokens of a text at most.
      row_multiple: rows are a multiple of this.
    """

    def __init__(self, *, longest: int, row_multiple: int = 1):
        most = _TOKENS_ON_CPU if jax.default_backend() == "cpu" else _TOKENS
        lengths = sorted({min(size, longest) for size in decoding.fine_buckets(longest)})
        num_rows = lambda length: max(1, most // length // row_multiple) * row_multiple
        self._shapes = {length: num_rows(length) for length in lengths}

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields each number of rows with its length."""
        return ((num_rows, length) for length, num_rows in self._shapes.items())

    def groups(self, sizes: Sequence[int]) -> Iterator[Few]:
        """Puts texts of one length together.

        Sizes 40, 5, 64, 8, 50 are 2 texts in 4 rows of 32 tokens, 2 in 2 of 64, and 1 in 2 of 64.
        """
        by_length: dict[int, list[int]] = {length: [] for length in self._shapes}
        for i, size in enumerate(sizes):
            by_length[next(length for length in self._shapes if length >= size)].append(i)
        for length, indices in by_length.items():
            num_rows = self._shapes[length]
            for first in range(0, len(indices), num_rows):
                yield Few(indices[first : first + num_rows], num_rows, length)


def batch_of(
    examples: Sequence[Features], layout: RowLayout, num_rows: int, length: int
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Lays examples of a task out, a row each, in this shape; see `lay_out`."""
    letters = {letter for example in examples for letter in sizes_by_letter(example)}
    lengths: Mapping[str, int] = dict.fromkeys({*letters, *layout.joined}, length)
    if layout.joined:
        lengths |= {"E": 1}  # Texts a row.
    return lay_out(examples, layout, multiple=1, row_multiple=num_rows, lengths=lengths)
