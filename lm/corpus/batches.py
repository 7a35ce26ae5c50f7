"""Batches as a pure function of (config, step): rows by index, in an order that a seed gives.

Dimension key: B batch, L length.
"""

import hashlib
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from lm.corpus.mixed_corpus import MixedCorpus
from lm.corpus.mixture import Mixture
from lm.corpus.packing import Piece
from lm.corpus.preparation import Prepared
from lm.corpus.rows import Rows, rows_from_pieces
from lm.errors import UserError
from lm.system.splitmix import mix

_ROWS_AT_ONCE, _TOKENS_AT_ONCE = 128, 2**21  # Of each source; of all of them, to bound memory.
Corpus = Prepared | MixedCorpus
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
    first = np.zeros(np.shape(indices), np.int64)
    return _permute_each(np.asarray(indices), np.full_like(first, size), [key], first)


def _permute_each(
    indices: np.ndarray, sizes: np.ndarray, keys: Sequence[str], which: np.ndarray
) -> np.ndarray:
    """Permutes each index as `permute` does, by the size and the number of the key beside it."""
    # Integers and SHA-256 alone, and no random generator, whose numbers change between versions of
    # a library. No table of `size` is made: an epoch may have billions of rows.
    distinct = np.unique(sizes)
    bits = [max(1, -(-(size - 1).bit_length() // 2)) for size in distinct.tolist()]
    half_bits = np.array(bits, np.uint64)[np.searchsorted(distinct, sizes)]
    digests = [np.frombuffer(hashlib.sha256(key.encode()).digest(), "<u8") for key in keys]
    round_keys = np.array(digests).T[:, which]  # Four of 64 bits, beside each index.

    def encrypt(x: np.ndarray, half_bits: np.ndarray, round_keys: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << half_bits) - np.uint64(1)
        left, right = x >> half_bits, x & mask
        for round_key in round_keys:
            # Whatever `mix` gives, the swap and XOR can be undone, so each round is one to one.
            left, right = right, left ^ (mix(right ^ round_key) & mask)
        return left << half_bits | right

    images = encrypt(indices.astype(np.uint64), half_bits, round_keys)
    # Fewer than 4 * size numbers are permuted, so that an index takes less than 4 tries on average.
    while (outside := images >= sizes.astype(np.uint64)).any():
        images[outside] = encrypt(images[outside], half_bits[outside], round_keys[:, outside])
    return images.astype(np.int64)


def rows_at(step: int, batch_size: int, num_rows: int, seed: int) -> np.ndarray:
    """Gives the ids of the rows, int64 of shape (B,), that turn the state of `step` into the next.

    Rows come in one order per epoch, given by (seed, epoch).
    """
    examples = step * batch_size + np.arange(batch_size, dtype=np.int64)
    return _rows_of(examples, np.zeros_like(examples), [num_rows], [f"{seed}"])


def _rows_of(
    ordinals: np.ndarray, sources: np.ndarray, sizes: Sequence[int], keys: Sequence[str]
) -> np.ndarray:
    """Gives the row, counted in its source, of the example of each ordinal and source.

    Of each epoch of a source all rows, in an order of its own, by the `keys` of the sources.
    """
    # Batches run on across the end of an epoch, so that every row is seen equally often.
    size_of_each = np.array(sizes, np.int64)[sources]
    epochs, indices = np.divmod(ordinals, size_of_each)
    # All at once, since what NumPy does for a few rows takes as long as for many.
    orders, which = np.unique(epochs * len(sizes) + sources, return_inverse=True)
    names = [f"{keys[order % len(sizes)]} {order // len(sizes)}" for order in orders.tolist()]
    return _permute_each(indices, size_of_each, names, which)


class Batches:
    """The training batches of one split. Nothing is remembered from step to step.

    Rows of a mixture are numbered through its sources, in the order of their names.
    """

    def __init__(
        self,
        prepared: Corpus,
        split: str,
        *,
        batch_size: int,
        seed: int,
        mixture: Mixture | None = None,
    ):
        """Raises UserError if a split of one source holds fewer rows than one batch.

        `mixture` says which source each row of a run is of, where `prepared` has several.
        """
        self.reader = prepared.open_rows(split)
        self.mixture, self._sizes = mixture, self.reader.sizes
        names = [""] if mixture is None else mixture.names
        # The one source of a mixture has the order that it has without.
        self._keys = [f"{seed} {name}" for name in names] if len(names) > 1 else [f"{seed}"]
        assert len(names) == len(self._sizes)
        if len(names) == 1 and len(self.reader) < batch_size:
            raise UserError(
                f"the {split} split holds {len(self.reader)} rows of {prepared.seq_len} tokens, "
                f"fewer than data.batch_size={batch_size}; give more text, or lower one of the two"
            )
        self._batch_size = batch_size
        self._seq_len, self._pad_id = prepared.seq_len, prepared.tokenizer.pad_id or 0

    def rows_at(self, step: int) -> np.ndarray:
        """Gives the ids of the rows, int64 of shape (B,), as the function `rows_at` does."""
        return self._rows_at(range(step, step + 1))[0]

    def _rows_at(self, steps: range) -> np.ndarray:
        """Gives those of several steps, each in a row."""
        sources, ordinals = self._draw(steps)
        starts = np.cumsum([0, *self._sizes])
        rows = starts[sources] + _rows_of(ordinals, sources, self._sizes, self._keys)
        return rows.reshape(len(steps), -1)

    def _draw(self, steps: range) -> tuple[np.ndarray, np.ndarray]:
        """Gives the source of each row of some steps, and its ordinal there; see `Mixture`."""
        start, end = steps.start * self._batch_size, steps.stop * self._batch_size
        if self.mixture is not None:
            return self.mixture.draw(start, end)
        return np.zeros(end - start, np.int64), np.arange(start, end, dtype=np.int64)

    def sources_at(self, step: int) -> list[str]:
        """Names the source of each row of a step; nothing where there is no mixture."""
        names = self.mixture.names if self.mixture is not None else ()
        return [names[source] for source in self._draw(range(step, step + 1))[0] if names]

    def drawn(self, num_steps: int, since: int = 0) -> dict[str, float]:
        """Says what a run has seen of each source of a mixture after its first steps.

        "share/NAME" is the share of the rows since step `since`; "epochs/NAME" how often the run
        has seen each row of the source.
        """
        if self.mixture is None:
            return {}
        before, now = (self.mixture.counts(n * self._batch_size) for n in (since, num_steps))
        shares = (now - before) / ((num_steps - since) * self._batch_size)
        epochs = now / np.array(self._sizes)
        return {
            f"{what}/{name}": float(values[i])
            for what, values in (("share", shares), ("epochs", epochs))
            for i, name in enumerate(self.mixture.names)
        }

    def batch_at(self, step: int, shard: int = 0, num_shards: int = 1) -> Rows:
        """Reads the batch of a step, or one host's part of it: B/num_shards x L."""
        (batch,) = self._read(range(step, step + 1), shard, num_shards)
        return batch

    def iterate(
        self, first_step: int, end_step: int, shard: int = 0, num_shards: int = 1
    ) -> Iterator[Rows]:
        """Yields `batch_at` of first_step, ..., end_step - 1, read ahead in threads."""
        # Each read of ArrayRecord starts threads of its own, so that small ones are slow; of
        # several sources each is read by itself.
        num_rows = min(_ROWS_AT_ONCE * len(self._sizes), _TOKENS_AT_ONCE // self._seq_len)
        many = -(-max(_ROWS_AT_ONCE, num_rows) // self._batch_size)
        batches = grain.MapDataset.range(first_step, end_step, many).map(
            lambda i: self._read(range(i, min(i + many, end_step)), shard, num_shards)
        )
        for several in batches.to_iter_dataset(READ_OPTIONS):
            yield from several

    def _read(self, steps: range, shard: int, num_shards: int) -> list[Rows]:
        """Reads the batches of some steps at once."""
        assert self._batch_size % num_shards == 0, (self._batch_size, num_shards)
        ids = self._rows_at(steps).reshape(len(steps), num_shards, -1)[:, shard]
        rows = self.reader.read(ids.ravel())
        size = self._batch_size // num_shards
        return [
            rows_from_pieces(rows[i * size : (i + 1) * size], self._seq_len, self._pad_id, ids_B)
            for i, ids_B in enumerate(ids)
        ]


def evaluation_batches(
    prepared: Corpus, split: str, *, batch_size: int, shard: int = 0, num_shards: int = 1
) -> Iterator[Rows]:
    """Yields every row of a split once, in order; rows of padding fill up the last batch."""
    reader = prepared.open_rows(split)
    for first in range(0, len(reader), batch_size):
        pieces: list[list[Piece]] = reader.read(range(first, min(first + batch_size, len(reader))))
        pieces += [[] for _ in range(batch_size - len(pieces))]
        part = batch_size // num_shards
        here = slice(shard * part, (shard + 1) * part)
        ids = range(first, first + batch_size)[here]  # By which masks are drawn, so never shuffled.
        yield rows_from_pieces(pieces[here], prepared.seq_len, prepared.tokenizer.pad_id or 0, ids)
