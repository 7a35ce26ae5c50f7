"""Inputs: what a block of the config names -> the files, and tasks that read them."""

import functools
import hashlib
import importlib.metadata
import itertools
import os
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from lm.corpus import record_sources, sources
from lm.curation import readers, records, web_text
from lm.errors import UserError
from lm.formats import files
from lm.settings import choose

_TASK_BYTES = 32_000_000  # Of small files, so many make one task.
T = TypeVar("T")
_BY_NAME = ("tfds", "hf")
_OF_LM = ("python_stdlib", "curated")
KINDS = ("auto", *dict.fromkeys(readers.SUFFIXES.values()), *_OF_LM, *_BY_NAME)


class File(NamedTuple):
    """A file of an input; what it is changes once it is written to."""

    path: pathlib.Path
    kind: str
    size: int
    mtime_ns: int


class Input(NamedTuple):
    """An input, opened: its files, or for a data set by name its path.

    num_links: of its files, how many were found again by way of links, and are read once.
    """

    name: str
    kind: str
    path: str
    field: str
    max_document_bytes: int
    limits: web_text.Limits
    licence: str
    files: tuple[File, ...]
    num_links: int


class Task(NamedTuple):
    """What one worker reads: some files of an input, or a data set by name.

    limit: of documents of each file; 0: all.
    """

    input: Input  # Without its files.
    files: tuple[File, ...]
    limit: int = 0


def make_input(
    *,
    name: str,
    kind: str,
    path: str | Sequence[str],
    field: str,
    licence: str,
    max_document_bytes: int,
    limits: web_text.Limits,
) -> Input:
    """Finds what an input names, and reads nothing of it; data sets by name may be downloaded.

    Args:
      name: of the input.
      kind: of `KINDS`; "auto" is by the suffix of each file.
      path: globs; or a data set's NAME@SPLIT; the workdir of a curated corpus; empty for
        python_stdlib.
      field: of the text in records, for kinds that have any.
      licence: of what it holds, for the data card; changes nothing.
      max_document_bytes: what a longer document is lost by.
      limits: of pages of HTML.

    Raises:
      UserError: nothing is there, or a setting means nothing to the kind.
    """
    block = f"inputs.{name}"
    choose(f"{block}.kind", kind, KINDS)
    if max_document_bytes < 1:
        raise UserError(f"{block}.max_document_bytes={max_document_bytes} must be at least 1")
    if kind in (*readers.OF_FIELDS, *_BY_NAME, "auto") and not field:
        raise UserError(f"{block}.field is empty; name the field of the text, such as text")
    make = functools.partial(
        Input,
        name,
        kind,
        field=field,
        max_document_bytes=max_document_bytes,
        limits=limits,
        licence=licence,
    )
    if kind in _BY_NAME:
        if not isinstance(path, str) or not all(path.rpartition("@")):
            raise UserError(f"{block}.path={path!r} must be NAME@SPLIT, such as wiki40b/en@train")
        made = make(path=path, files=(), num_links=0)
        _open_by_name(made)
        return made
    if kind == "python_stdlib":
        if path:
            raise UserError(f"{block}.path={path!r} means nothing to python_stdlib; leave it out")
        root, names = sources.stdlib_files()
        found = [root / each for each in names]
    elif kind == "curated":
        if not path or field != "text":
            raise UserError(f"{block} needs as its path the workdir of a curation, and field=text")
        found = [
            each
            for split in ("train", "validation")
            for each in sources.curated_files(str(path), split, f"{block}.path={path!r}")[0]
        ]
    else:
        found = files.find(block, path, key=f"{block}.path")
    for each in found:
        if not os.access(each, os.R_OK):  # Before hours of what comes before it.
            raise UserError(
                f"{block}.path: {files.shown(each)} may not be read by this user; give access to it"
            )
    unlinked: dict[tuple[int, int], File] = {}
    for each in found:
        stat = each.stat()
        file = File(each, _kind_of(block, kind, each), stat.st_size, stat.st_mtime_ns)
        # Behind links, also of folders, lie the same files again.
        unlinked.setdefault((stat.st_dev, stat.st_ino), file)
    return make(path="", files=tuple(unlinked.values()), num_links=len(found) - len(unlinked))


def _kind_of(block: str, kind: str, path: pathlib.Path) -> str:
    if kind in _OF_LM:
        return {"python_stdlib": "text", "curated": "jsonl"}[kind]
    if kind != "auto":
        return kind
    found = readers.kind_of(path)
    if found is None:
        raise UserError(
            f"{files.shown(path)}: nothing is known of the suffix; set {block}.kind to one of "
            f"{', '.join(KINDS[1:])}"
        )
    return found


def tasks_of(one: Input) -> list[Task]:
    """Cuts an input into tasks of about equal size."""
    bare = one._replace(files=())
    if one.kind in _BY_NAME:
        return [Task(bare, ())]
    tasks, held, size = [], [], 0
    for file in one.files:
        held.append(file)
        size += file.size
        if size >= _TASK_BYTES:
            tasks.append(Task(bare, tuple(held)))
            held, size = [], 0
    return tasks + ([Task(bare, tuple(held))] if held else [])


def fingerprint(one: Input) -> str:
    """Gives a hash of all that shapes what is read of an input, its contents too."""
    settings = (one.name, one.kind, one.path, one.field, one.max_document_bytes)
    kinds = {file.kind for file in one.files}
    if kinds & readers.OF_WEB.keys():
        versions = [importlib.metadata.version(name) for name in ("resiliparse", "fastwarc")]
        settings += (tuple(one.limits), *versions)
    kinds = [file.kind for file in one.files]
    contents = _open_by_name(one).fingerprint() if one.kind in _BY_NAME else ""
    contents = contents or files.hash_files(file.path for file in one.files)
    return hashlib.sha256(repr((settings, kinds, contents)).encode()).hexdigest()


def check_unchanged(inputs: Iterable[Input]) -> None:
    """Raises UserError if a file was written to since its input was opened."""
    for file in (file for one in inputs for file in one.files):
        try:
            stat = file.path.stat()
        except FileNotFoundError:
            stat = None
        if stat is None or (stat.st_size, stat.st_mtime_ns) != (file.size, file.mtime_ns):
            raise UserError(
                f"{files.shown(file.path)} changed while it was read; run the same command again "
                "once nothing writes to it"
            )


def read(task: Task) -> Iterator[bytes]:
    """Yields the record of each document of a task, and of each loss, as lines."""
    for item in _items(task):
        yield records.encode(records.from_input(task.input.name, item))


def _items(task: Task) -> Iterator[records.Found | records.Lost]:
    one = task.input
    if one.kind in _BY_NAME:
        found = readers.records(
            _open_by_name(one).records(), max_bytes=one.max_document_bytes, field=one.field
        )
        yield from _first(found, task.limit)
    for file in task.files:
        found = readers.read(
            file.kind,
            file.path,
            field=one.field,
            max_bytes=one.max_document_bytes,
            limits=one.limits,
        )
        yield from _first(found, task.limit)


def _first(items: Iterator[T], limit: int) -> Iterator[T]:
    return itertools.islice(items, limit) if limit else items


def sample_of(one: Input, count: int) -> Task:
    """Gives a task of about so many documents, from files that are spread over an input."""
    by_hash = lambda file: hashlib.sha256(str(file.path).encode()).digest()
    chosen = sorted(one.files, key=by_hash)[:count]
    limit = -(-count // max(1, len(chosen)))
    return Task(one._replace(files=()), tuple(chosen), limit)


def _open_by_name(one: Input) -> record_sources.RecordSource:
    argument, _, split = one.path.rpartition("@")
    try:
        if one.kind == "tfds":
            return record_sources.open_tfds(argument, "train", split)
        return record_sources.open_hugging_face(argument, "train", split, one.field)
    except UserError as error:  # It knows keys by the names that they have in training.
        key = f"inputs.{one.name}.path"
        said = str(error).replace(
            f"data.source='{one.kind}:{argument}', data.train={split!r}", f"{key}={one.path!r}"
        )
        raise UserError(said.replace("data.train", key).replace("data.source", key)) from None
