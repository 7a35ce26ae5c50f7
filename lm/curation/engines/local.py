"""The engine of one machine: shards on its disk, and one process or several.

What it has written stays, so that whoever was killed goes on with the shards and tasks that are
whole, with any number of processes.
"""

import contextlib
import functools
import io
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from lm.curation import shards
from lm.curation.engines import runs
from lm.curation.engines.engine import Lines, check_numbers
from lm.errors import UserError
from lm.system import atomic_files, workers

T = TypeVar("T")
_INDEX, _LINES = "index.json", "lines.zst"
_PART_BYTES = 2**16  # Of a run, that are read at once while many are merged.


class LocalEngine:
    """See `engine.Engine`."""

    def __init__(self, num_shards: int, sort_bytes: int, each: Callable[..., Iterator]):
        """Takes a `map` over tasks, whose results come in the order of tasks; see `opened`."""
        self.num_shards, self._sort_bytes, self._each = num_shards, sort_bytes, each

    def sort(self, emit, tasks, target) -> None:
        """See `engine.Engine`."""
        folder = target / "runs"
        folder.mkdir(parents=True, exist_ok=True)
        # A killed one wrote these; what is here now may have been cut into other tasks.
        plan = json.dumps([repr(task) for task in tasks])
        if not (folder / "plan").exists() or (folder / "plan").read_text() != plan:
            shutil.rmtree(folder)
            folder.mkdir()
            atomic_files.write(folder / "plan", plan)
        write = functools.partial(
            _write_runs, emit=emit, num_shards=self.num_shards, sort_bytes=self._sort_bytes
        )
        folders = [folder / f"{i:06d}" for i in range(len(tasks))]
        _all(self._each(write, zip(tasks, folders, strict=True)))
        merge = functools.partial(
            _merge_runs, folders=folders, num_shards=self.num_shards, target=target
        )
        _all(self._each(merge, ((shard,) for shard in range(self.num_shards))))

    def map(self, apply, sources, target) -> None:
        """See `engine.Engine`."""
        target.mkdir(parents=True, exist_ok=True)
        write = functools.partial(_write_shard, apply=apply, sources=sources, target=target)
        _all(self._each(write, ((name,) for name in self._names())))

    def fold(self, summarize, sources):
        """See `engine.Engine`."""
        of_one = functools.partial(_summarize, summarize=summarize, sources=sources)
        return list(self._each(of_one, ((name,) for name in self._names())))

    def _names(self) -> list[str]:
        return [shards.name(shard, self.num_shards) for shard in range(self.num_shards)]


@contextlib.contextmanager
def opened(*, num_workers: int, num_shards: int, sort_bytes: int) -> Iterator[LocalEngine]:
    """Opens an engine.

    Args:
      num_workers: processes; 0: one for each core. With one, the caller's own is used.
      num_shards: files of every data set, and so of the corpus.
      sort_bytes: of lines, that each process sorts in memory before it writes them.

    Raises:
      UserError: a number is out of range; a process was killed.
    """
    if num_workers < 0:
        raise UserError(f"engine.num_workers={num_workers} must be at least 0")
    check_numbers(num_shards=num_shards, sort_bytes=sort_bytes)
    num_workers = num_workers or len(os.sched_getaffinity(0))
    if num_workers == 1:
        yield LocalEngine(num_shards, sort_bytes, lambda f, tasks: (f(*task) for task in tasks))
        return
    with workers.spawned(num_workers, int, (), "curated") as pool:

        def each(function, tasks):
            return pool.map(_star(function), tasks)

        yield LocalEngine(num_shards, sort_bytes, each)


class _star:
    """Calls a function with a tuple of arguments; a class, so that it can be sent."""

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, arguments: Sequence[Any]) -> Any:
        return self._function(*arguments)


def _all(results: Iterator) -> None:
    for _ in results:
        pass


def _write_runs(
    task: Any,
    folder: pathlib.Path,
    *,
    emit: Callable[[Any], Lines],
    num_shards: int,
    sort_bytes: int,
) -> None:
    """Writes the lines of a task in sorted runs, and an index: of each run, where shards lie."""
    if folder.is_dir():
        return
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    index: list[list[tuple[int, int]]] = []
    with (unfinished / _LINES).open("wb") as file:
        for frames in runs.cut(emit(task), num_shards, sort_bytes):
            places = []
            for frame in frames:
                places.append((file.tell(), len(frame)))
                file.write(frame)
            index.append(places)
    atomic_files.write(unfinished / _INDEX, json.dumps(index))
    atomic_files.rename_folder(unfinished, folder)


def _merge_runs(
    shard: int, *, folders: Sequence[pathlib.Path], num_shards: int, target: pathlib.Path
) -> None:
    path = target / shards.name(shard, num_shards)
    if path.exists():
        return
    frames = [
        io.BufferedReader(_Part(folder / _LINES, *run[shard]), _PART_BYTES)
        for folder in folders
        for run in json.loads((folder / _INDEX).read_bytes())
    ]
    shards.write(path, runs.merge(frames))


class _Part(io.RawIOBase):
    """Reads some bytes of a file, which it opens for each read and not for longer.

    So no number of runs is a number of open files, and none of them lies in memory.
    """

    def __init__(self, path: pathlib.Path, start: int, size: int):
        self._path, self._at, self._end = path, start, start + size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        with self._path.open("rb", buffering=0) as file:
            file.seek(self._at)
            count = file.readinto(memoryview(buffer)[: self._end - self._at])
        self._at += count
        return count


def _write_shard(
    name: str,
    *,
    apply: Callable[..., Lines],
    sources: Sequence[pathlib.Path],
    target: pathlib.Path,
) -> None:
    if not (target / name).exists():
        shards.write(target / name, apply(*[shards.read(source / name) for source in sources]))


def _summarize(name: str, *, summarize: Callable[..., T], sources: Sequence[pathlib.Path]) -> T:
    return summarize(*[shards.read(source / name) for source in sources])
