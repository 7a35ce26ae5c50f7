"""Labelled examples in memory, and their batches as a pure function of (config, step).

Dimension key: B batch, E texts of a row; any other letter is a length that examples differ in.
"""

import bisect
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import grain
import numpy as np

from lm.corpus.batches import READ_OPTIONS, rows_at
from lm.errors import UserError

# One example: arrays by the name that a batch gives them. A name ends in B and the letters of the
# array's own dimensions, so `tokens_BL` is of shape (L,) here.
Features = Mapping[str, Any]
_MODEL_INPUTS = ("tokens_BL", "encoder_tokens_BM")
_FEWEST_TOKENS = 4  # Of a text that shares a row, on average; shorter ones leave room behind them.


class RowLayout(NamedTuple):
    """How the examples of a task are laid out in the rows of a batch.

    fill: what fills arrays up at their ends, and rows without an example; 0 where it says none.
    joined: letters of the lengths along which examples that share a row follow one another, the
      first one that of their tokens; "" where each example has a row of its own.
    places: features that are places along L, which grow by the length of what stands before.
    """

    fill: Mapping[str, float]
    joined: str = ""
    places: tuple[str, ...] = ()

    def lengths(self, examples: Sequence[Features], multiple: int) -> dict[str, int]:
        """Gives the lengths of all rows where they are shared: one for all, so that few differ.

        That of the longest example, rounded up to a `multiple`; and under "E" the most texts a row.
        """
        if not self.joined:
            return {}
        width = max(map(self.size, examples), default=1)
        width = -(-width // multiple) * multiple
        return dict.fromkeys(self.joined, width) | {"E": max(1, width // _FEWEST_TOKENS)}

    def size(self, example: Features) -> int:
        """Says how long an example is along what is joined, or else along its longest dimension."""
        sizes = sizes_by_letter(example)
        return max((sizes.get(letter, 1) for letter in self.joined or sizes), default=1)

    def rows(self, examples: Sequence[Features], lengths: Mapping[str, int]) -> list[list[int]]:
        """Says which examples stand in each row, by their indices, in their order."""
        if not self.joined:
            return [[i] for i in range(len(examples))]
        width, num_texts = lengths[self.joined[0]], lengths["E"]
        return shared_rows(list(map(self.size, examples)), width, num_texts)

    def join(self, examples: Sequence[Features]) -> Features:
        """Makes one row of examples.

            {"tokens_BL": [5, 6, 7], "first_BW": [1, 2], "label_B": 1}
            {"tokens_BL": [8, 9], "first_BW": [0], "label_B": 0}
        with joined="LW" and places=("first_BW",):
            {"tokens_BL": [5, 6, 7, 8, 9], "first_BW": [1, 2, 3], "label_BE": [1, 0]}
        """
        if not self.joined:
            (example,) = examples
            return example
        sizes = [sizes_by_letter(example)["L"] for example in examples]
        starts = np.cumsum([0, *sizes[:-1]])
        row = {}
        for name in examples[0]:
            letters, values = _letters(name), [example[name] for example in examples]
            if letters and letters[0] in self.joined:
                if name in self.places:
                    values = [value + start for value, start in zip(values, starts, strict=True)]
                row[name] = np.concatenate(values)
            else:  # One value, or one array, of each text.
                row[f"{name[: len(name) - len(letters)]}E{letters}"] = np.stack(values)
        return row

    def cut(
        self, arrays: Mapping[str, np.ndarray], examples: Sequence[Features]
    ) -> list[dict[str, np.ndarray]]:
        """Undoes `join` and padding: of what a model gives for a row, each example's part.

        Args:
          arrays: of one row, without the leading B: `x_BL...`, `x_BE...`, or else whole.
          examples: those of the row.
        """
        parts: list[dict[str, np.ndarray]] = []
        ends: dict[str, int] = {}
        for e, example in enumerate(examples):
            at: dict[str, Any] = {"E": e} if self.joined else {}
            for letter, n in sizes_by_letter(example).items():
                at[letter] = slice(ends.get(letter, 0), ends.get(letter, 0) + n)
                if letter in self.joined:
                    ends[letter] = at[letter].stop
            of = lambda name, at=at: at.get(_letters(name)[:1], ...)
            parts.append({name: x[of(name)] for name, x in arrays.items()})
        return parts


def shared_rows(sizes: Sequence[int], width: int, num_texts: int) -> list[list[int]]:
    """Packs texts into rows of `width` tokens and at most `num_texts`: best fit, longest first.

    Sizes 3, 1, 2 at width 4 make the rows [0, 1], [2]: at most 11/9 of the fewest rows, and one
    more (Johnson 1973).
    """
    room: list[int] = []  # Ascending: what each open row can still hold.
    open_rows: list[list[int]] = []  # In the same order.
    rows: list[list[int]] = []
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        at = bisect.bisect_left(room, sizes[i])
        if at < len(room):
            left, row = room.pop(at), open_rows.pop(at)
        else:
            left, row = width, []
            rows.append(row)
        row.append(i)
        left -= sizes[i]
        if left and len(row) < num_texts:
            at = bisect.bisect_left(room, left)
            room.insert(at, left)
            open_rows.insert(at, row)
    return rows


def collate(
    rows: Sequence[Features],
    *,
    fill: Mapping[str, float],
    multiple: int,
    size: int,
    lengths: Mapping[str, int] = MappingProxyType({}),
) -> dict[str, np.ndarray]:
    """Lays rows out as one batch of `size` rows.

        {"tokens_BL": [5, 6, 7], "label_B": 1}
        {"tokens_BL": [8], "label_B": 0}
    with fill={"tokens_BL": 0}, multiple=4, size=3:
        tokens_BL  5 6 7 0   label_B  1
                   8 0 0 0            0
                   0 0 0 0            0

    Args:
      rows: at least one, all with the same names.
      fill: what fills rows up at their ends, and those without an example; 0 where it says none.
      multiple: each length is that of the longest row, rounded up to a multiple of this, so that
        few shapes have to be compiled. Rows look the same however long the batch is.
      size: rows.
      lengths: those that are given, by their letters.
    """
    longest: dict[str, int] = {}
    for row in rows:
        for letter, n in sizes_by_letter(row).items():
            longest[letter] = max(longest.get(letter, 1), n)
    lengths = {letter: -(-n // multiple) * multiple for letter, n in longest.items()} | lengths
    batch = {}
    for name, first in rows[0].items():
        shape = [lengths[letter] for letter in _letters(name)]
        # As JAX has them without 64-bit types; Python's own numbers come as 64 bits.
        dtype = np.float32 if np.asarray(first).dtype.kind == "f" else np.int32
        batch[name] = np.full((size, *shape), fill.get(name, 0), dtype)
        for b, row in enumerate(rows):
            batch[name][(b, *map(slice, np.shape(row[name])))] = row[name]
    return batch


def lay_out(
    examples: Sequence[Features],
    layout: RowLayout,
    *,
    multiple: int,
    row_multiple: int,
    lengths: Mapping[str, int] | None = None,
) -> tuple[dict[str, np.ndarray], list[list[int]]]:
    """Makes one batch of examples, and says which of them stand in each row.

    Args:
      examples: at least one.
      layout: of their task.
      multiple: see `collate`.
      row_multiple: rows without an example fill the batch up to a multiple of this.
      lengths: those of `RowLayout.lengths`, of more examples; None: of these.
    """
    lengths = layout.lengths(examples, multiple) if lengths is None else lengths
    rows = layout.rows(examples, lengths)
    batch = collate(
        [layout.join([examples[i] for i in row]) for row in rows],
        fill=layout.fill,
        multiple=multiple,
        size=-(-len(rows) // row_multiple) * row_multiple,
        lengths=lengths,
    )
    return batch, rows


def sizes_by_letter(example: Features) -> dict[str, int]:
    """Reads the length that each letter stands for off an example's arrays; none is empty."""
    sizes: dict[str, int] = {}
    for name, value in example.items():
        for letter, n in zip(_letters(name), np.shape(value), strict=True):
            sizes[letter] = max(sizes.get(letter, 1), n)  # Whichever arrays share it.
    return sizes


def _letters(name: str) -> str:
    """Reads the dimensions of an example's array off its name: "L" for tokens_BL."""
    return re.search(r"_B([A-Z]*)$", name)[1]


class ExampleBatches:
    """The training batches of some examples, in one order per epoch, as `batches.Batches` has it.

    Args:
      examples: all of them.
      layout: of their task.
      multiple: see `collate`.
      batch_size: examples a step.
      row_multiple: where rows are shared, batches have a multiple of so many.
      seed: of the order.

    Raises:
      UserError: there are fewer examples than one batch.
    """

    def __init__(
        self,
        examples: Sequence[Features],
        *,
        layout: RowLayout,
        multiple: int,
        batch_size: int,
        row_multiple: int,
        seed: int,
    ):
        if len(examples) < batch_size:
            raise UserError(
                f"data.train gives {len(examples)} examples, fewer than "
                f"data.batch_size={batch_size}; give more, or lower it"
            )
        self._examples, self._batch_size, self._seed = examples, batch_size, seed
        self._lay_out = _RowMaker(examples, layout, multiple, batch_size, row_multiple)

    def rows_at(self, step: int) -> np.ndarray:
        """Says which examples turn the state of `step` into the next, int64 of shape (B,)."""
        return rows_at(step, self._batch_size, len(self._examples), self._seed)

    def batch_at(self, step: int, shard: int = 0, num_shards: int = 1) -> dict[str, np.ndarray]:
        """Lays out the batch of a step, or one host's part of it, as wide as the whole."""
        # Every host lays out the whole batch, since all of its examples give its shape.
        return _part(self.laid_out_at(step)[0], shard, num_shards)

    def laid_out_at(self, step: int) -> tuple[dict[str, np.ndarray], list[list[int]]]:
        """Gives the whole batch of a step, and the examples that stand in each row."""
        return self._lay_out(self.rows_at(step).tolist())

    def iterate(
        self, first_step: int, end_step: int, shard: int = 0, num_shards: int = 1
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields `batch_at` of first_step, ..., end_step - 1, made ahead in threads."""
        batches = grain.MapDataset.range(first_step, end_step).map(
            lambda step: self.batch_at(step, shard, num_shards)
        )
        yield from batches.to_iter_dataset(READ_OPTIONS)


class _RowMaker:
    """Lays batches of some examples out, in as few shapes as their rows allow."""

    def __init__(
        self,
        examples: Sequence[Features],
        layout: RowLayout,
        multiple: int,
        batch_size: int,
        row_multiple: int,
    ):
        self._examples, self._layout, self._multiple = examples, layout, multiple
        self._lengths = layout.lengths(examples, multiple)
        self._row_multiple = batch_size
        if layout.joined:
            # Numbers of rows differ by a sixth of the usual one, or more: two or three programs to
            # compile, and not many rows without a text.
            mean = sum(map(layout.size, examples)) / max(1, len(examples))
            step = batch_size * mean / self._lengths[layout.joined[0]] / 6
            self._row_multiple = row_multiple * max(1, round(step / row_multiple))

    def __call__(self, indices: Sequence[int]) -> tuple[dict[str, np.ndarray], list[list[int]]]:
        """Returns the batch of these examples, and which of them stand in each row."""
        batch, rows = lay_out(
            [self._examples[i] for i in indices],
            self._layout,
            multiple=self._multiple,
            row_multiple=self._row_multiple,
            lengths=self._lengths,
        )
        return batch, [[indices[i] for i in row] for row in rows]


def _part(batch: dict[str, np.ndarray], shard: int, num_shards: int) -> dict[str, np.ndarray]:
    return {name: np.split(x, num_shards)[shard] for name, x in batch.items()}


def evaluation_batches(
    examples: Sequence[Features],
    *,
    layout: RowLayout,
    multiple: int,
    batch_size: int,
    row_multiple: int = 1,
    shard: int = 0,
    num_shards: int = 1,
) -> Iterator[tuple[list[list[int]], dict[str, np.ndarray]]]:
    """Yields every example once, with the indices of those in each row.

    The last batch is filled up with empty rows. One host's part of a batch comes with the indices
    of the whole.
    """
    lay_out = _RowMaker(examples, layout, multiple, batch_size, row_multiple)
    order = sorted(range(len(examples)), key=lambda i: layout.size(examples[i]))  # Stable.
    num_batches = -(-len(order) // batch_size)
    for k in range(num_batches):
        # Long ones and short ones fill rows together; alone, those of like length do.
        few = order[k::num_batches] if layout.joined else order[k * batch_size :][:batch_size]
        batch, rows = lay_out(few)
        yield rows, _part(batch, shard, num_shards)


def outputs_by_example(
    results: Iterable[tuple[list[list[int]], Mapping[str, np.ndarray]]],
    examples: Sequence[Features],
    layout: RowLayout,
) -> dict[int, dict[str, np.ndarray]]:
    """Cuts what a model gave for batches of `evaluation_batches` into that of each example.

    Args:
      results: the indices of the examples in each row, and arrays with a leading batch axis.
      examples, layout: those of the batches.
    """
    found = {}
    for rows, arrays in results:
        for b, row in enumerate(rows):  # Shorter than the batch, whose empty rows fall away here.
            here = {name: x[b] for name, x in arrays.items()}
            parts = layout.cut(here, [examples[i] for i in row])
            found |= dict(zip(row, parts, strict=True))
    return found


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
