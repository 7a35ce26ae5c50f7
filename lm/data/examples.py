"""Labelled examples in memory, and their batches as a pure function of (config, step).

Dimension key: B batch; any other letter is a length that examples differ in.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from lm.corpus.batches import READ_OPTIONS, rows_at
from lm.errors import UserError

# One example: arrays by the name that a batch gives them. A name ends in B and the letters of the
# array's own dimensions, so `tokens_BL` is of shape (L,) here.
Features = Mapping[str, Any]
_MODEL_INPUTS = ("tokens_BL", "encoder_tokens_BM")


def collate(
    examples: Sequence[Features], *, fill: Mapping[str, float], multiple: int, size: int
) -> dict[str, np.ndarray]:
    """Lays examples out as one batch of `size` rows.

        {"tokens_BL": [5, 6, 7], "label_B": 1}
        {"tokens_BL": [8], "label_B": 0}
    with fill={"tokens_BL": 0}, multiple=4, size=3:
        tokens_BL  5 6 7 0   label_B  1
                   8 0 0 0            0
                   0 0 0 0            0

    Args:
      examples: at least one, all with the same names.
      fill: what fills arrays up at their ends, and rows without an example; 0 where it says none.
      multiple: each length is that of the longest example, rounded up to a multiple of this, so
        that few shapes have to be compiled. Rows look the same however long the batch is.
      size: rows.
    """
    lengths: dict[str, int] = {}
    for example in examples:
        for name, value in example.items():
            for letter, n in zip(_letters(name), np.shape(value), strict=True):
                # One letter is one length, whichever arrays share it; none is empty.
                lengths[letter] = max(lengths.get(letter, 1), n)
    lengths = {letter: -(-n // multiple) * multiple for letter, n in lengths.items()}
    batch = {}
    for name, first in examples[0].items():
        shape = [lengths[letter] for letter in _letters(name)]
        # As JAX has them without 64-bit types; Python's own numbers come as 64 bits.
        dtype = np.float32 if np.asarray(first).dtype.kind == "f" else np.int32
        batch[name] = np.full((size, *shape), fill.get(name, 0), dtype)
        for b, example in enumerate(examples):
            batch[name][(b, *map(slice, np.shape(example[name])))] = example[name]
    return batch


def _letters(name: str) -> str:
    """Reads the dimensions of an example's array off its name: "L" for tokens_BL."""
    return re.search(r"_B([A-Z]*)$", name)[1]


class ExampleBatches:
    """The training batches of some examples, in one order per epoch, as `batches.Batches` has it.

    Raises:
      UserError: there are fewer examples than one batch.
    """

    def __init__(
        self,
        examples: Sequence[Features],
        *,
        fill: Mapping[str, float],
        multiple: int,
        batch_size: int,
        seed: int,
    ):
        if len(examples) < batch_size:
            raise UserError(
                f"data.train gives {len(examples)} examples, fewer than "
                f"data.batch_size={batch_size}; give more, or lower it"
            )
        self._examples, self._fill, self._multiple = examples, fill, multiple
        self._batch_size, self._seed = batch_size, seed

    def rows_at(self, step: int) -> np.ndarray:
        """Says which examples turn the state of `step` into the next, int64 of shape (B,)."""
        return rows_at(step, self._batch_size, len(self._examples), self._seed)

    def batch_at(self, step: int, shard: int = 0, num_shards: int = 1) -> dict[str, np.ndarray]:
        """Lays out the batch of a step, or one host's part of it, as wide as the whole."""
        # Every host lays out the whole batch, since the longest example of all gives its width.
        examples = [self._examples[i] for i in self.rows_at(step)]
        batch = collate(examples, fill=self._fill, multiple=self._multiple, size=self._batch_size)
        return _part(batch, shard, num_shards)

    def iterate(
        self, first_step: int, end_step: int, shard: int = 0, num_shards: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields `batch_at` of first_step, ..., end_step - 1, made ahead in threads."""
        batches = grain.MapDataset.range(first_step, end_step).map(
            lambda step: self.batch_at(step, shard, num_shards)
        )
        yield from batches.to_iter_dataset(READ_OPTIONS)


def _part(batch: dict[str, np.ndarray], shard: int, num_shards: int) -> dict[str, np.ndarray]:
    return {name: np.split(x, num_shards)[shard] for name, x in batch.items()}


def evaluation_batches(
    examples: Sequence[Features],
    *,
    fill: Mapping[str, float],
    multiple: int,
    batch_size: int,
    shard: int = 0,
    num_shards: int = 1,
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yields every example once, with its index; examples of like length share a batch.

    The last batch is filled up with empty rows. One host's part of a batch comes with the indices
    of the whole.
    """
    size = lambda i: max((np.size(value) for value in examples[i].values()), default=0)
    order = sorted(range(len(examples)), key=size)  # Stable: of equal sizes in their own order.
    for first in range(0, len(order), batch_size):
        here = order[first : first + batch_size]
        batch = collate([examples[i] for i in here], fill=fill, multiple=multiple, size=batch_size)
        yield np.array(here), _part(batch, shard, num_shards)


def num_seen(
    train: Sequence[Features], validation: Sequence[Features], owners: Sequence[int]
) -> int:
    """Counts the validation records of which a model reads just what it reads in training.

    Args:
      train, validation: the examples of all records.
      owners: the record of each validation example.
    """
    seen, known = set(map(_input_digest, train)), dict.fromkeys(owners, True)
    for example, owner in zip(validation, owners, strict=True):
        known[owner] &= _input_digest(example) in seen  # All windows of a record, or it is new.
    return sum(known.values())


def _input_digest(example: Features) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name in _MODEL_INPUTS:  # No label and no id: a text is known, whatever is said of it.
        if name in example:
            digest.update(name.encode() + np.asarray(example[name], np.int32).tobytes())
    return digest.digest()
