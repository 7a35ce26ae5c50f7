"""Batches in few shapes, all of which can be compiled before the first text comes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from lm.data.examples import Features, RowLayout, lay_out, sizes_by_letter
from lm.generation.decoding import bucket


class Few(NamedTuple):
    """Says which texts are computed together, and in what shape."""

    indices: list[int]
    num_rows: int
    length: int


class FewShapes:
    """Chooses shapes: rows are 1, 4, 16, ... or `batch_size`; lengths are 32, 64, ... or `longest`.

    Args:
      batch_size: rows at most; a multiple of `row_multiple`.
      longest: tokens of a text at most.
      row_multiple: rows are a multiple of this.
    """

    def __init__(self, *, batch_size: int, longest: int, row_multiple: int = 1):
        self._longest = longest
        self._counts = [row_multiple]
        while self._counts[-1] < batch_size:
            self._counts.append(min(4 * self._counts[-1], batch_size))
        self._lengths = [bucket(1, longest)]
        while self._lengths[-1] < longest:
            self._lengths.append(bucket(2 * self._lengths[-1], longest))

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yields each number of rows with each length."""
        return ((count, length) for count in self._counts for length in self._lengths)

    def groups(self, sizes: Sequence[int]) -> Iterator[Few]:
        """Puts texts of like length together.

        Sizes 40, 5, 70, 8 with 4 rows at most are one batch of 4 rows and 128 tokens.
        """
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
        for first in range(0, len(order), self._counts[-1]):
            here = order[first : first + self._counts[-1]]
            num_rows = next(count for count in self._counts if count >= len(here))
            yield Few(here, num_rows, bucket(sizes[here[-1]], self._longest))


def batch_of(
    examples: Sequence[Features], layout: RowLayout, num_rows: int, length: int
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Lays examples of a task out, a row each, in this shape; see `lay_out`."""
    letters = {letter for example in examples for letter in sizes_by_letter(example)}
    lengths: Mapping[str, int] = dict.fromkeys({*letters, *layout.joined}, length)
    if layout.joined:
        lengths |= {"E": 1}  # Texts a row.
    return lay_out(examples, layout, multiple=1, row_multiple=num_rows, lengths=lengths)
