"""Labelled data: records of fields, from files and from data sets by name."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lm.corpus import sources
from lm.data import arithmetic, builtin
from lm.errors import UserError
from lm.formats import files, formats
from lm.formats.fields import Record
from lm.settings import choose, lookup


class RecordSource(NamedTuple):
    """One split of labelled data; see `sources.Source`, which is the same for documents."""

    records: Callable[[], Iterable[Record | UserError]]
    fingerprint: Callable[[], str]


def read_records(
    source: str,
    *,
    split: str,
    spec: str | Sequence[str],
    max_document_bytes: int = files.MAX_DOCUMENT_BYTES,
) -> RecordSource:
    """One split of the labelled data that a config names.

    Args:
      source: `data.source`: files; tfds:NAME; hf:NAME; python_stdlib:TASK, an embedded example; or
        modular_addition.
      split: "train" or "validation".
      spec: `data.train` or `data.validation`: globs, a split as TFDS and Hugging Face name it, or a
        modulus.
      max_document_bytes: the longest record of a file; see `sources.make_source`.

    Raises:
      UserError: the kind is unknown, or nothing is there.
    """
    kind, _, argument = source.partition(":")
    make = lookup("data.source", kind, _KINDS)
    limit = (max_document_bytes,) if kind == "files" else ()
    return make(argument, split, spec, *limit)


def readable(source: RecordSource, on_error: str, skipped: list[UserError]) -> Iterator[Record]:
    """The records that can be read and are valid Unicode; see `files.without_errors`."""
    return files.without_errors(checked(source.records()), on_error, skipped)


def checked(items: Iterable[Record | UserError]) -> Iterator[Record | UserError]:
    """Yields what is valid Unicode; in place of a record that is not, the error."""
    for item in items:
        texts = () if isinstance(item, UserError) else texts_of(item)
        yield next(filter(None, (files.half_character(item.name, text) for text in texts)), item)


def hold_out(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Splits records in two by a hash of what they hold: about a `share` of them is the second.

    The same record is always on the same side, whatever the order and the others are, so that no
    duplicate is on both.
    """
    second = [_place(record) < share for record in records]
    return (
        [r for r, held_out in zip(records, second, strict=True) if not held_out],
        [r for r, held_out in zip(records, second, strict=True) if held_out],
    )


def take(records: Sequence[Record], num: int) -> list[Record]:
    """So many of the records, in their order, chosen by a hash: more of them hold the fewer ones.

    It is another hash than that of `hold_out`, which may have chosen among them before.

    Raises:
      UserError: there are not so many.
    """
    if num > len(records):
        raise UserError(f"data.num_examples={num}, and there are {len(records)} training records")
    order = sorted(range(len(records)), key=lambda i: (_place(records[i], "take"), i))
    return [records[i] for i in sorted(order[:num])]


def _place(record: Record, salt: str = "") -> float:
    """Where a record stands between 0 and 1, by a hash of what it holds."""
    text = json.dumps(record.fields, sort_keys=True, default=str) + salt
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def texts_of(record: Record) -> list[str]:
    """Every text in a record, also in lists: what a tokenizer can be trained on."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for child in value.values() for text in texts(child))
        elif isinstance(value, list | tuple):
            if all(isinstance(child, str) for child in value):
                yield " ".join(value)
            else:
                yield from (text for child in value for text in texts(child))

    return list(texts(record.fields))


# Files -----------------------------------------------------------------------------------------


def _files(
    argument: str,
    split: str,
    spec: str | Sequence[str],
    max_bytes: int = files.MAX_DOCUMENT_BYTES,
) -> RecordSource:
    """Files by glob; the suffix, without that of a packed file, says the format."""
    if argument:
        raise UserError(f"data.source='files:{argument}': the files are named by data.{split}")
    paths = files.find(split, spec)
    readers = [formats.reader_of(path) for path in paths]
    return RecordSource(
        lambda: (
            item
            for path, reader in zip(paths, readers, strict=True)
            for item in formats.read(path, max_bytes, reader)
        ),
        lambda: files.hash_files(paths),
    )


# Data sets by name, and the embedded ones ---------------------------------------------------------


def _tfds(argument: str, split: str, spec: str) -> RecordSource:
    """Any TFDS data set: bytes become text, class labels their names."""
    items, paths = sources.open_tfds(argument, split, spec)
    features = items.dataset_info.features
    return RecordSource(
        lambda: (
            Record(f"tfds:{argument}[{spec}]:{i}", _plain(item, features))
            for i, item in enumerate(items)
        ),
        lambda: files.hash_together(paths),
    )


def _plain(value: Any, feature: Any = None) -> Any:
    """NumPy's and TFDS's values as Python's own, and class labels as their names."""
    # A sequence passes on what its elements' feature has; and of a sequence of dicts, the values
    # come as a dict of sequences.
    feature = getattr(feature, "feature", feature)
    if isinstance(value, dict):
        of = dict(feature) if hasattr(feature, "keys") else {}
        return {key: _plain(child, of.get(key)) for key, child in value.items()}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(child, feature) for child in value]
    if hasattr(feature, "int2str") and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else value
    return value


def _hugging_face(argument: str, split: str, spec: str) -> RecordSource:
    """Any data set of the Hugging Face Hub; class labels become their names."""
    items, paths = sources.open_hugging_face(argument, split, spec)
    return RecordSource(
        lambda: (
            Record(f"hf:{argument}[{spec}]:{i}", _plain(item, items.features))
            for i, item in enumerate(items)
        ),
        lambda: files.hash_together(paths),
    )


def _python_stdlib(argument: str, split: str, spec: str) -> RecordSource:
    """An embedded example, made of the running Python's own standard library."""
    choices = [f"python_stdlib:{name}" for name in builtin.TASKS]
    choose("data.source", f"python_stdlib:{argument}", choices)
    if spec:
        raise UserError(f"data.{split}={spec!r} means nothing to python_stdlib; leave it out")
    return RecordSource(
        lambda: (Record(*item) for item in builtin.read(argument, split)),
        lambda: f"{argument} {builtin.fingerprint()}",
    )


def _modular_addition(argument: str, split: str, spec: str) -> RecordSource:
    """All sums of `arithmetic.modular_addition`; the modulus is what `data.train` says."""
    if argument or not spec.isdigit() or not 2 <= int(spec) <= arithmetic.NUM_SYMBOLS:
        raise UserError(
            f"data.{split}={spec!r} must be the modulus, 2 to {arithmetic.NUM_SYMBOLS}, of "
            "data.source=modular_addition"
        )
    return RecordSource(
        lambda: (Record(*item) for item in arithmetic.modular_addition(int(spec))),
        lambda: f"modular_addition {spec}",
    )


_KINDS = {
    "files": _files,
    "tfds": _tfds,
    "hf": _hugging_face,
    "python_stdlib": _python_stdlib,
    "modular_addition": _modular_addition,
}
