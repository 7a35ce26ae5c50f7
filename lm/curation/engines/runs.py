"""Runs: lines sorted as far as memory goes, from which shards are merged."""

import heapq
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from backports import zstd

from lm.curation import shards

NOTHING = shards.compress([])  # The frame of a shard that has no line in a run.


def cut(lines: Iterable[bytes], num_shards: int, sort_bytes: int) -> Iterator[Iterator[bytes]]:
    """Yields runs, at least one, each as a frame of sorted lines for each shard.

    All frames of a run are to be taken before the next run is.

    Args:
      lines: that begin with their ids, in any order.
      num_shards: of the data set.
      sort_bytes: of lines, that are held before a run is cut.
    """
    held, size = [], 0
    for line in lines:
        held.append(line)
        size += len(line)
        if size > sort_bytes:
            yield _frames(held, num_shards)
            held, size = [], 0
    yield _frames(held, num_shards)


def _frames(held: list[bytes], num_shards: int) -> Iterator[bytes]:
    held.sort()
    start = 0
    for shard in range(num_shards):
        end = start
        while end < len(held) and shards.shard_of(held[end], num_shards) == shard:
            end += 1
        yield shards.compress(held[start:end])
        start = end
    assert start == len(held), "lines that are sorted as bytes are sorted by shard"


def merge(frames: Iterable[BinaryIO]) -> Iterator[bytes]:
    """Yields the lines of a shard's frames, sorted. Equal lines all stay."""
    return heapq.merge(*(io.BufferedReader(zstd.ZstdFile(frame)) for frame in frames))
