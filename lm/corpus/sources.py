"""Sources: where documents come from. One function a kind, listed in SOURCES; see docs/data.md."""

import difflib
import filecmp
import functools
import hashlib
import itertools
import json
import os
import pathlib
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from lm.corpus import record_sources
from lm.corpus.documents import LONG_CHARS, Document
from lm.corpus.record_sources import RecordSource
from lm.errors import UserError
from lm.formats import files as files_lib
from lm.formats import formats
from lm.formats.fields import Record, kind_of, lookup, names_of


class Source(NamedTuple):
    """One split of a corpus.

    documents: starts anew on every call, and yields the documents in a fixed order; in place of one
      that cannot be read, the UserError that says why.
    fingerprint: a string that changes whenever the contents do; what the config says about the
      source need not be in it.
    """

    documents: Callable[[], Iterable[Document | UserError]]
    fingerprint: Callable[[], str]


def make_source(
    source: str,
    *,
    split: str,
    spec: str | Sequence[str],
    field: str,
    max_document_bytes: int = files_lib.MAX_DOCUMENT_BYTES,
) -> Source:
    """Opens one split of the source that a config names.

    Args:
      source: `data.source`: a kind, or kind:argument.
      split: "train" or "validation".
      spec: `data.train` or `data.validation`: globs, or a split as TFDS and Hugging Face name it.
      field: `data.field`: where a record keeps its text; "meta.text" is one inside another.
      max_document_bytes: what a record or a file that is one document may have, unpacked; longer
        ones are errors. Only files are held to it.

    Raises:
      UserError: the kind is unknown, or nothing is there.
    """
    kind, _, argument = source.partition(":")
    if kind not in SOURCES:
        near = difflib.get_close_matches(kind, SOURCES, n=1, cutoff=0.0)[0]
        raise UserError(
            f"data.source={source!r} is unknown; did you mean {near!r}? "
            f"There are {', '.join(SOURCES)}"
        )
    make = SOURCES[kind]
    limit = {"max_bytes": max_document_bytes} if make in _OF_FILES else {}
    return make(argument=argument, split=split, spec=spec, field=field, **limit)


def readable(source: Source, on_error: str, skipped: list[UserError]) -> Iterator[Document]:
    """Yields the documents that can be read and are valid Unicode.

    Args:
      source: what to read.
      on_error: "raise" raises the first error; "skip" appends errors to `skipped` and goes on.
      skipped: grows by one for each document that is left out.

    Raises:
      UserError: a document cannot be read, and `on_error` is "raise".
    """
    checked = (
        d if isinstance(d, UserError) else files_lib.half_character(d.name, d.text) or d
        for d in source.documents()
    )
    return files_lib.without_errors(checked, on_error, skipped)


# Python's own library --------------------------------------------------------------------------


def python_stdlib(*, argument: str, split: str, spec: str, field: str) -> Source:
    """Reads the running Python's standard library without its tests: 12 MB on every machine.

    A file belongs to the validation split if the hash of its relative path says so (one in twenty).
    """
    _refuse("python_stdlib", {"data.source": argument, f"data.{split}": spec, "data.field": field})
    root, names = stdlib_files()
    wanted = [name for name in names if is_held_out(name) == (split == "validation")]
    return _whole_files([root / name for name in wanted], root=root)


def stdlib_files() -> tuple[pathlib.Path, list[str]]:
    """Finds the folder of the standard library, and its source files in it, sorted."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    others = {"site-packages", "dist-packages", "test", "tests", "__pycache__"}
    names = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = set(subfolders) - others  # What is left out is not even walked through.
        relative = pathlib.Path(folder).relative_to(root)  # Hashed, so the same on any machine.
        names += [(relative / file).as_posix() for file in files if file.endswith(".py")]
    return root, sorted(names)


def is_held_out(name: str) -> bool:
    """Whether a name is held out for validation, as a twentieth of all are, chosen by hash."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20 == 0


# Files -----------------------------------------------------------------------------------------


def text_files(*, argument: str, split: str, spec: str, field: str, max_bytes: int) -> Source:
    """Reads files by glob, one document a file; packed ones are unpacked."""
    _refuse("text", {"data.source": argument, "data.field": field})
    return _whole_files(files_lib.find(split, spec), max_bytes)


def json_lines(*, argument: str, split: str, spec: str, field: str, max_bytes: int) -> Source:
    """Reads JSON Lines by glob, one document a line; packed ones are unpacked."""
    _refuse("jsonl", {"data.source": argument})
    files_lib.require("jsonl", "data.field", field, 'the key that holds the text, such as "text"')
    # Whatever the suffix is: a name such as corpus.txt is allowed here.
    return _texts(
        record_sources.open_files(split, spec, max_bytes, lambda path: formats.json_lines), field
    )


def record_files(*, argument: str, split: str, spec: str, field: str, max_bytes: int) -> Source:
    """Reads files by glob, one document a record, in any format of `formats` by its suffix."""
    _refuse("files", {"data.source": argument})
    files_lib.require("files", "data.field", field, 'the field of the text, such as "text"')
    return _texts(record_sources.open_files(split, spec, max_bytes), field)


def curated(*, argument: str, split: str, spec: str, field: str) -> Source:
    """Reads `curated:WORKDIR`, a corpus that `configs/curate.py` made.

    Its fingerprint was taken when it was written, so that no start reads it all for one.
    """
    _refuse("curated", {f"data.{split}": spec, "data.field": field})
    files_lib.require("curated", "data.source", argument, "the workdir of configs/curate.py")
    paths, fingerprint = curated_files(argument, split, f"data.source='curated:{argument}'")
    each = lambda: (
        formats.read(p, files_lib.MAX_DOCUMENT_BYTES, formats.json_lines) for p in paths
    )
    records = RecordSource(lambda: itertools.chain.from_iterable(each()), lambda: fingerprint)
    return _texts(records, "text")


def curated_files(workdir: str, split: str, key: str) -> tuple[list[pathlib.Path], str]:
    """Finds the files of a split of a curated corpus, and its fingerprint.

    Raises:
      UserError: `key` names no corpus, or one that is not as it was written.
    """
    folder = pathlib.Path(workdir, "corpus")
    if not (folder / "corpus.json").is_file():
        raise UserError(
            f"{key}: there is no corpus; make one with --config=configs/curate.py "
            f"--workdir={workdir}"
        )
    again = "is not as it was written; run configs/curate.py again"
    try:
        meta = json.loads((folder / "corpus.json").read_bytes())
        sizes = {name: entry["num_bytes"] for name, entry in meta["splits"][split].items()}
        fingerprint = f"{split} {meta['fingerprint']}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{folder / 'corpus.json'} {again}") from None
    paths = [folder / split / name for name in sizes]
    for path in paths:
        if not path.is_file() or path.stat().st_size != sizes[path.name]:
            raise UserError(f"{path} {again}")
    return paths, fingerprint


def in_both(source: str, train: str | Sequence[str], validation: str | Sequence[str]) -> list[str]:
    """Names the validation files that are training files too, or hold just what one does.

    There are none for sources that are no files. `SplitCounter` finds shared documents.
    """
    if SOURCES.get(source) not in _OF_FILES:
        return []
    specs = {"train": train, "validation": validation}
    paths = {split: files_lib.find(split, spec) for split, spec in specs.items()}
    by_size: dict[int, list[pathlib.Path]] = {}
    for path in paths["train"]:
        by_size.setdefault(path.stat().st_size, []).append(path)

    def is_in(path: pathlib.Path) -> bool:
        alike = by_size.get(path.stat().st_size, [])
        return any(other.samefile(path) or filecmp.cmp(other, path, False) for other in alike)

    return [files_lib.shown(path) for path in paths["validation"] if is_in(path)]


def _whole_files(
    paths: list[pathlib.Path],
    max_bytes: int = files_lib.MAX_DOCUMENT_BYTES,
    root: pathlib.Path | None = None,
) -> Source:
    return Source(
        documents=lambda: (document for path in paths for document in _whole_file(path, max_bytes)),
        fingerprint=lambda: files_lib.hash_files(paths, root),
    )


def _whole_file(path: pathlib.Path, max_bytes: int) -> Iterator[Document | UserError]:
    """Yields one document, or a long one in parts."""
    name, held, size = files_lib.shown(path), [], 0
    try:
        for text in files_lib.decoded(path, max_bytes):
            size += len(text)
            held.append(text)
            if size > LONG_CHARS:
                held.clear()  # From here on this reading only looks for faults.
        if size <= LONG_CHARS:
            yield Document("".join(held), name)
        else:  # A second reading, since parts could not be taken back at a later fault.
            for text in files_lib.decoded(path, max_bytes):
                yield Document(text, name, goes_on=True)
            yield Document("", name)
    except files_lib.DAMAGED as error:
        yield files_lib.unreadable(path, error)
    except UserError as error:
        yield error


def _texts(source: RecordSource, field: str) -> Source:
    """Makes a document of the text in a field of each record."""
    # `map`, since the variable of a loop would hold a long record while its text is in use.
    documents = lambda: map(functools.partial(_text_of, field), source.records())
    return Source(documents, source.fingerprint)


def _text_of(field: str, record: Record | UserError) -> Document | UserError:
    if isinstance(record, UserError):
        return record
    try:
        text = lookup(record.fields, field)
        if isinstance(text, bytes):  # TFDS keeps text as UTF-8.
            text = text.decode()
    except KeyError:
        fault = "missing"
    except UnicodeDecodeError as error:
        return files_lib.not_utf8(record.name, text, error, error.start)
    else:
        if isinstance(text, str):
            return Document(text, record.name)
        fault = kind_of(text)
    there = names_of(record.fields)
    return UserError(f"{record.name}: data.field={field!r} is {fault}; there are {there}")


def _refuse(kind: str, settings: dict[str, str]) -> None:
    """Raises UserError where a key is set that the source does not read."""
    for key, value in settings.items():
        if value:
            raise UserError(f"{key}: {value!r} means nothing to the source {kind!r}; leave it out")


# Data sets by name -----------------------------------------------------------------------------


def tfds_dataset(*, argument: str, split: str, spec: str, field: str) -> Source:
    """Reads `tfds:NAME[/config]`: any TFDS data set that can be read as a data source."""
    files_lib.require("tfds", "data.field", field, "the feature that holds the text")
    return _texts(record_sources.open_tfds(argument, split, spec), field)


def hugging_face(*, argument: str, split: str, spec: str, field: str) -> Source:
    """Reads `hf:owner/name` or `hf:owner/name:config` of the Hugging Face Hub, or `hf:FOLDER`.

    The folder holds files that `datasets` can load, or what its `save_to_disk` wrote.
    """
    files_lib.require("hf", "data.field", field, "the column that holds the text")
    return _texts(record_sources.open_hugging_face(argument, split, spec, field), field)


SOURCES: dict[str, Callable[..., Source]] = {
    "python_stdlib": python_stdlib,
    "text": text_files,
    "jsonl": json_lines,
    "files": record_files,
    "curated": curated,
    "tfds": tfds_dataset,
    "hf": hugging_face,
}
_OF_FILES = {text_files, json_lines, record_files}
