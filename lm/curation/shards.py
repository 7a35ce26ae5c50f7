"""Shards: files of sorted lines, each with a range of ids; see `records.encode`.

A line belongs to a shard by the first digits of its id alone. So it lies in the same place whoever
wrote it, and all shards one behind the other are sorted.
"""

import io
import pathlib
from collections.abc import Iterable, Iterator

from backports import zstd

from lm.errors import UserError
from lm.formats import files
from lm.system import atomic_files

_ID = slice(len(b'{"id":"'), len(b'{"id":"') + 8)
_OPTIONS = {
    zstd.CompressionParameter.compression_level: 3,
    zstd.CompressionParameter.checksum_flag: 1,  # So that damage is an error, never other text.
}


_BUFFER_BYTES = 2**16


def name(shard: int, num_shards: int) -> str:
    """Names a shard's file: "00003-of-00016.jsonl.zst"."""
    return f"{shard:05d}-of-{num_shards:05d}.jsonl.zst"


def shard_of(line: bytes, num_shards: int) -> int:
    """Gives the shard of a line that begins with its id."""
    return int(line[_ID], 16) * num_shards >> 32


def compress(lines: Iterable[bytes]) -> bytes:
    """Gives lines as one frame."""
    return zstd.compress(b"".join(lines), options=_OPTIONS)


def read(path: pathlib.Path) -> Iterator[bytes]:
    """Yields the lines of a shard.

    Raises:
      UserError: the file is damaged.
    """
    try:
        with zstd.open(path, "rb") as file:
            yield from io.BufferedReader(file)  # Whose lines cost a fifth of the file's own.
    except files.DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise UserError(
            f"{path} is damaged ({error}); delete its folder, and run the same command again"
        ) from None


def write(path: pathlib.Path, lines: Iterable[bytes]) -> int:
    """Writes a shard, which is there whole or not at all; gives the number of lines."""
    count = 0
    with atomic_files.replacing(path) as part:
        with (
            zstd.open(part, "wb", options=_OPTIONS) as file,
            io.BufferedWriter(file, _BUFFER_BYTES) as buffer,
        ):
            for line in lines:
                buffer.write(line)
                count += 1
        if not count:  # The library writes no frame then, and refuses to read none.
            part.write_bytes(compress([]))
    return count
