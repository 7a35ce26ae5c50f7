"""Batches as a pure function of (config, step): rows by index, in an order that a seed gives.

Dimension key: B batch, L length.
"""

import hashlib
from collections.abc import Iterator

import grain
import numpy as np

from lm.corpus.packed_rows import RowReader
from lm.corpus.packing import Piece
from lm.corpus.preparation import Prepared
from lm.corpus.rows import Rows, rows_from_pieces
from lm.errors import UserError
from lm.system.splitmix import mix

_ROWS_AT_ONCE = 128
READ_OPTIONS = grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)


def permute(indices: np.ndarray, size: int, key: str) -> np.ndarray:
    """Gives the image of each index under a pseudorandom permutation of range(size).

    Four rounds of a Feistel network (Luby and Rackoff 1988) permute the numbers of the next even
    count of bits; an image outside the range is permuted again until it falls inside (cycle
    walking, Black and Rogaway 2002).

    Args:
      indices: any shape, each in range(size).
      size: at least 1.
      key: chooses the permutation.
    """
    # Integers and SHA-256 alone, and no random generator, whose numbers change between versions of
    # a library. No table of `size` is made: an epoch may have billions of rows.
    half_bits = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    mask = np.uint64((1 << int(half_bits)) - 1)
    round_keys = np.frombuffer(hashlib.sha256(key.encode()).digest(), "<u8")  # Four of 64 bits.

    def encrypt(x: np.ndarray) -> np.ndarray:
        left, right = x >> half_bits, x & mask
        for round_key in round_keys:
            # Whatever `mix` gives, the swap and XOR can be undone, so each round is one to one.
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        return left << half_bits | right

    images = encrypt(np.asarray(indices, np.uint64))
    # Fewer than 4 * size numbers are permuted, so that an index takes less than 4 tries on average.
    while (outside := images >= size).any():
        images[outside] = encrypt(images[outside])
    return images.astype(np.int64)


def rows_at(step: int, batch_size: int, num_rows: int, seed: int) -> np.ndarray:
    """Gives the ids of the rows, int64 of shape (B,), that turn the state of `step` into the next.

    Rows come in one order per epoch, given by (seed, epoch).
    """
    # Batches run on across the end of an epoch, so that every row is seen equally often.
    examples = step * batch_size + np.arange(batch_size, dtype=np.int64)
    epochs, indices = np.divmod(examples, num_rows)
    rows = np.empty_like(indices)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = permute(indices[here], num_rows, f"{seed} {epoch}")
    return rows


class Batches:
    """The training batches of one split. Nothing is remembered from step to step."""

    def __init__(self, prepared: Prepared, split: str, *, batch_size: int, seed: int):
        """Raises UserError if the split holds fewer rows than one batch."""
        self.reader = RowReader(prepared.folder, split, prepared.tokenizer.vocab_size)
        self._num_rows = len(self.reader)
        if self._num_rows < batch_size:
            raise UserError(
                f"the {split} split holds {self._num_rows} rows of {prepared.seq_len} tokens, "
                f"fewer than data.batch_size={batch_size}; give more text, or lower one of the two"
            )
        self._batch_size, self._seed = batch_size, seed
        self._seq_len, self._pad_id = prepared.seq_len, prepared.tokenizer.pad_id or 0

    def rows_at(self, step: int) -> np.ndarray:
        """Calls the function `rows_at`."""
        return rows_at(step, self._batch_size, self._num_rows, self._seed)

    def batch_at(self, step: int, shard: int = 0, num_shards: int = 1) -> Rows:
        """Reads the batch of a step, or one host's part of it: B/num_shards x L."""
        (batch,) = self._read(range(step, step + 1), shard, num_shards)
        return batch

    def iterate(
        self, first_step: int, end_step: int, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Rows]:
        """Yields `batch_at` of first_step, ..., end_step - 1, read ahead in threads."""
        # Each read of ArrayRecord starts threads of its own, so that small ones are slow.
        many = -(-_ROWS_AT_ONCE // self._batch_size)
        batches = grain.MapDataset.range(first_step, end_step, many).map(
            lambda i: self._read(range(i, min(i + many, end_step)), shard, num_shards)
        )
        for several in batches.to_iter_dataset(READ_OPTIONS):
            yield from several

    def _read(self, steps: range, shard: int, num_shards: int) -> list[Rows]:
        """Reads the batches of some steps at once."""
        assert self._batch_size % num_shards == 0, (self._batch_size, num_shards)
        ids = [self.rows_at(step).reshape(num_shards, -1)[shard] for step in steps]
        rows = self.reader.read(np.concatenate(ids))
        size = self._batch_size // num_shards
        return [
            rows_from_pieces(rows[i * size : (i + 1) * size], self._seq_len, self._pad_id, ids_B)
            for i, ids_B in enumerate(ids)
        ]


def evaluation_batches(
    prepared: Prepared, split: str, *, batch_size: int, shard: int = 0, num_shards: int = 1
) -> Iterator[Rows]:
    """Yields every row of a split once, in order; rows of padding fill up the last batch."""
    reader = RowReader(prepared.folder, split, prepared.tokenizer.vocab_size)
    for first in range(0, len(reader), batch_size):
        pieces: list[list[Piece]] = reader.read(range(first, min(first + batch_size, len(reader))))
        pieces += [[] for _ in range(batch_size - len(pieces))]
        part = batch_size // num_shards
        here = slice(shard * part, (shard + 1) * part)
        ids = range(first, first + batch_size)[here]  # By which masks are drawn, so never shuffled.
        yield rows_from_pieces(pieces[here], prepared.seq_len, prepared.tokenizer.pad_id or 0, ids)
