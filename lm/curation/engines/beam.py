"""The engine of many machines: Apache Beam, on any of its runners.

Lines are sorted and packed where they are made, as in `local`, go through the runner's own shuffle
by shard, and are merged there. All machines see the same folders.
"""

import contextlib
import functools
import io
import json
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm.curation import shards
from lm.curation.engines import runs
from lm.curation.engines.engine import Lines, check_numbers
from lm.system import atomic_files
from lm.system.apache_beam import Beam, in_turn, make_beam


class BeamEngine:
    """See `engine.Engine`."""

    def __init__(self, num_shards: int, sort_bytes: int, beam: Beam):
        self.num_shards, self._sort_bytes, self._beam = num_shards, sort_bytes, beam

    def sort(self, emit, tasks, target) -> None:
        """See `engine.Engine`."""
        import apache_beam as beam

        target.mkdir(parents=True, exist_ok=True)
        cut = functools.partial(
            _cut, emit=emit, num_shards=self.num_shards, sort_bytes=self._sort_bytes
        )
        write = functools.partial(_merge, num_shards=self.num_shards, target=target)

        def build(pipeline: beam.Pipeline) -> None:
            cut_all = beam.FlatMap(cut).with_output_types(tuple[int, bytes])
            frames = self._beam.tasks(pipeline, tasks) | cut_all
            frames | beam.GroupByKey() | beam.Map(write)

        self._beam.run(build)
        for name in self._names():
            if not (target / name).exists():  # No task has a line for it.
                _write(target / name, [])
        _clear(target)

    def map(self, apply, sources, target) -> None:
        """See `engine.Engine`."""
        target.mkdir(parents=True, exist_ok=True)
        write = functools.partial(_write_shard, apply=apply, sources=sources, target=target)
        self._each(write, self._names())
        _clear(target)

    def fold(self, summarize, sources):
        """See `engine.Engine`."""
        names = self._names()
        # Beside the sources, where all machines see it.
        folder = pathlib.Path(tempfile.mkdtemp(prefix=".folded-", dir=sources[0].parent))
        try:
            write = functools.partial(
                _write_summary, summarize=summarize, sources=sources, target=folder
            )
            self._each(write, names)
            return [json.loads((folder / name).read_bytes()) for name in names]
        finally:
            shutil.rmtree(folder)

    def _each(self, function: Callable[[str], None], names: Sequence[str]) -> None:
        import apache_beam as beam

        self._beam.run(lambda pipeline: self._beam.tasks(pipeline, names) | beam.Map(function))

    def _names(self) -> list[str]:
        return [shards.name(shard, self.num_shards) for shard in range(self.num_shards)]


@contextlib.contextmanager
def opened(
    *, runner: str, options: Sequence[str], num_shards: int, sort_bytes: int
) -> Iterator[BeamEngine]:
    """Opens an engine.

    Args:
      runner: of Beam, by its name, as FlinkRunner.
      options: of Beam and of its runner, as --flink_master=HOST:PORT.
      num_shards: files of every data set, and so of the corpus.
      sort_bytes: of lines, that a worker sorts in memory for each of its tasks.

    Raises:
      UserError: a number is out of range, Beam is not there, or does not know what is asked for.
    """
    check_numbers(num_shards=num_shards, sort_bytes=sort_bytes)
    yield BeamEngine(num_shards, sort_bytes, make_beam("engine", runner=runner, options=options))


def _cut(
    task: Any, *, emit: Callable[[Any], Lines], num_shards: int, sort_bytes: int
) -> Iterator[tuple[int, bytes]]:
    cut = runs.cut(emit(task), num_shards, sort_bytes)
    while (frames := in_turn(next, cut, None)) is not None:
        for shard, frame in enumerate(frames):
            if frame != runs.NOTHING:
                yield shard, frame


def _merge(
    shard_frames: tuple[int, Iterable[bytes]], *, num_shards: int, target: pathlib.Path
) -> None:
    shard, frames = shard_frames
    _write(target / shards.name(shard, num_shards), runs.merge(map(io.BytesIO, frames)))


def _write(path: pathlib.Path, lines: Lines) -> None:
    # Runners try again, also while an attempt that they have given up goes on elsewhere.
    attempt = _attempt(path)
    shards.write(attempt, lines)
    attempt.replace(path)


def _attempt(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}.attempt")


def _clear(folder: pathlib.Path) -> None:
    for path in folder.glob("*.attempt*"):
        path.unlink()


def _write_shard(
    name: str,
    *,
    apply: Callable[..., Lines],
    sources: Sequence[pathlib.Path],
    target: pathlib.Path,
) -> None:
    def write() -> None:
        _write(target / name, apply(*[shards.read(source / name) for source in sources]))

    if not (target / name).exists():
        in_turn(write)


def _write_summary(
    name: str,
    *,
    summarize: Callable[..., Any],
    sources: Sequence[pathlib.Path],
    target: pathlib.Path,
) -> None:
    summary = in_turn(summarize, *[shards.read(source / name) for source in sources])
    attempt = _attempt(target / name)
    atomic_files.write(attempt, json.dumps(summary).encode())
    attempt.replace(target / name)
