"""Packed rows on disk: ArrayRecord files, written and read through TFDS.

A row is one byte string: the number of its pieces, their lengths, the tokens that follow them, and
all their tokens.
"""

import contextlib
import io
import os
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from lm.corpus.packing import Piece
from lm.errors import UserError
from lm.system import faults

_INT = np.dtype("<i4")  # "<": the same bytes on every machine, so that a cache can be copied.


def token_dtype(vocab_size: int) -> np.dtype:
    """Chooses the smallest type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def encode_row(row: Sequence[Piece], dtype: np.dtype) -> bytes:
    """Encodes [Piece([7, 8, 9], 4), Piece([5], -1)] as 2 | 3 1 | 4 -1 | 7 8 9 5."""
    # TFDS reads one such string about fifty times faster than sequences of numbers.
    header = [len(row), *(len(p.tokens) for p in row), *(p.next_token for p in row)]
    tokens = np.concatenate([p.tokens for p in row])
    # Next tokens stand in the header, whose type has a sign: NO_NEXT is -1.
    return np.array(header, _INT).tobytes() + tokens.astype(dtype).tobytes()


def decode_row(record: bytes, dtype: np.dtype) -> list[Piece]:
    """Inverts `encode_row`; the tokens are read-only views."""
    (count,) = np.frombuffer(record, _INT, count=1)
    header = np.frombuffer(record, _INT, count=1 + 2 * count).tolist()
    tokens = np.frombuffer(record, dtype, offset=_INT.itemsize * len(header))
    pieces, start = [], 0
    for length, next_token in zip(header[1 : 1 + count], header[1 + count :], strict=True):
        pieces.append(Piece(tokens[start : start + length], next_token))
        start += length
    return pieces


class PackedRows(tfds.core.GeneratorBasedBuilder):
    """Writes splits of packed rows, in order."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(
        self,
        *,
        folder: pathlib.Path,
        splits: dict[str, Callable[[], Iterable[list[Piece]]]],
        vocab_size: int,
    ):
        self._splits = splits
        self._dtype = token_dtype(vocab_size)
        super().__init__(data_dir=folder, file_format="array_record")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict({"row": tfds.features.Scalar(np.object_)}),
            disable_shuffling=True,  # A row is found by its index, in the order of packing.
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(rows()) for split, rows in self._splits.items()}

    def _generate_examples(self, rows):
        for index, row in enumerate(rows):
            yield index, {"row": encode_row(row, self._dtype)}

    def write(self) -> None:
        """Writes every split, without the progress bars of TFDS."""
        tfds.disable_progress_bar()
        with contextlib.redirect_stdout(io.StringIO()), _waiting_on_disk():
            self.download_and_prepare()


class _Waiting:
    """Holds rows for the writer of TFDS, in a file, until their number is known."""

    # In place of its `Shuffler`, which holds up to 1 GB of a split in memory, also where it does
    # not shuffle, and beyond that needs TensorFlow.
    def __init__(self, dirpath: os.PathLike, **_):
        self._file = tempfile.TemporaryFile(dir=dirpath)  # noqa: SIM115 - read by __iter__.
        self.size = self.num_examples = 0

    @property
    def bucket_lengths(self) -> list[int]:
        return [self.num_examples]

    def add(self, key: int, data: bytes) -> None:
        assert key == self.num_examples
        self._file.write(len(data).to_bytes(8, "little") + data)
        self.size += len(data)
        self.num_examples += 1

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        with self._file as file:
            file.seek(0)
            for key in range(self.num_examples):
                yield key, file.read(int.from_bytes(file.read(8), "little"))


@contextlib.contextmanager
def _waiting_on_disk() -> Iterator[None]:
    usual, shuffle.Shuffler = shuffle.Shuffler, _Waiting
    try:
        yield
    finally:
        shuffle.Shuffler = usual


class RowReader:
    """The rows of one split, by index."""

    def __init__(self, folder: pathlib.Path, split: str, vocab_size: int):
        """Raises UserError if the files are damaged, here or when rows are read."""
        self._folder = folder
        with naming_damage(folder):
            builder = tfds.builder_from_directory(folder / "packed_rows" / str(PackedRows.VERSION))
            self._source = builder.as_data_source(split=split)
        self._dtype = token_dtype(vocab_size)

    def __len__(self) -> int:
        return len(self._source)

    def records(self, indices: Sequence[int]) -> list[bytes]:
        """Reads rows as they are on disk."""
        with naming_damage(self._folder):
            return [r["row"] for r in self._source.__getitems__(list(map(int, indices)))]

    def read(self, indices: Sequence[int]) -> list[list[Piece]]:
        """Reads the pieces of rows."""
        records = self.records(indices)
        with naming_damage(self._folder):
            return [decode_row(record, self._dtype) for record in records]


class JoinedRows:
    """The rows of several readers, numbered through."""

    def __init__(self, readers: Sequence[RowReader]):
        self.readers, self.sizes = readers, [len(reader) for reader in readers]
        self._ends = np.cumsum(self.sizes)

    def __len__(self) -> int:
        return int(self._ends[-1])

    def records(self, indices: Sequence[int]) -> list[bytes]:
        """Reads rows as they are on disk."""
        return self._joined(RowReader.records, indices)

    def read(self, indices: Sequence[int]) -> list[list[Piece]]:
        """Reads the pieces of rows."""
        return self._joined(RowReader.read, indices)

    def _joined(self, read: Callable[[RowReader, Sequence[int]], list], indices) -> list:
        indices = np.asarray(indices)
        owners = np.searchsorted(self._ends, indices, side="right")
        rows: list = [None] * len(indices)
        for owner in np.unique(owners):
            (places,) = np.nonzero(owners == owner)
            first = self._ends[owner] - self.sizes[owner]
            for place, row in zip(
                places, read(self.readers[owner], indices[places] - first), strict=True
            ):
                rows[place] = row
        return rows


_MISPLACED = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


@contextlib.contextmanager
def naming_damage(folder: pathlib.Path) -> Iterator[None]:
    """Raises what is raised inside as a UserError that names the folder of the prepared data."""
    try:
        yield
    except (PermissionError, MemoryError):
        raise  # The machine's refusals are no damage, and delete-and-prepare is no remedy for them.
    except Exception as error:  # TFDS and ArrayRecord raise nothing narrower.
        if faults.errno_of(error) is not None and not isinstance(error, _MISPLACED):
            raise
        is_said = isinstance(error, UserError)
        reason = error.culprit if is_said else f"{type(error).__name__}: {error}"
        raise damaged(folder, reason) from None


def damaged(folder: pathlib.Path, reason: str) -> UserError:
    """Makes the error about prepared data that is not as it was written."""
    return UserError(
        f"the prepared data in {folder} is damaged ({' '.join(reason.split())[:300]}); delete that "
        "folder, and the same command prepares it anew"
    )
