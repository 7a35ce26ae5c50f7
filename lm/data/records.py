"""Labelled data: records of fields, from files and from data sets by name."""

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm.corpus import record_sources
from lm.corpus.record_sources import RecordSource
from lm.data import builtin
from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record, texts_of
from lm.settings import choose, lookup


def read_records(
    source: str,
    *,
    split: str,
    spec: str | Sequence[str],
    max_document_bytes: int = files.MAX_DOCUMENT_BYTES,
) -> RecordSource:
    """Opens one split of the labelled data that a config names.

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
    """Yields the records that can be read and are valid Unicode; see `files.without_errors`."""
    return files.without_errors(checked(source.records()), on_error, skipped)


def checked(items: Iterable[Record | UserError]) -> Iterator[Record | UserError]:
    """Yields what is valid Unicode; in place of a record that is not, the error."""
    for item in items:
        texts = () if isinstance(item, UserError) else texts_of(item)
        yield next(filter(None, (files.half_character(item.name, text) for text in texts)), item)


def hold_out(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Splits records in two by a hash of what they hold; about a `share` of them is the second.

    The same record is always on the same side, whatever the order and the others are.
    """
    sides: tuple[list[Record], list[Record]] = [], []
    for record in records:  # No duplicate is on both sides, since a hash knows no index.
        sides[_place(record) < share].append(record)
    return sides


def take(records: Sequence[Record], num: int) -> list[Record]:
    """Takes `num` records by a hash and keeps their order; a larger `num` adds to a smaller one.

    Raises:
      UserError: there are not so many.
    """
    if num > len(records):
        raise UserError(f"data.num_examples={num}, and there are {len(records)} training records")
    # Salted: by the plain places, what is taken would depend on the share that `hold_out` took.
    # Duplicates have equal places, and go by index.
    order = sorted(range(len(records)), key=lambda i: (_place(records[i], "take"), i))
    return [records[i] for i in sorted(order[:num])]


def _place(record: Record, salt: str = "") -> float:
    """Gives a record a place in [0, 1), by a hash of what it holds."""
    text = json.dumps(record.fields, sort_keys=True, default=str) + salt  # Not of its name.
    return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) / 2**64


def _files(argument: str, split: str, spec: str | Sequence[str], max_bytes: int) -> RecordSource:
    """Opens files by glob; the suffix, without that of a packed file, says the format."""
    if argument:
        raise UserError(f"data.source='files:{argument}': the files are named by data.{split}")
    return record_sources.open_files(split, spec, max_bytes)


def _data_set(
    open_by_name: Callable[..., RecordSource], argument: str, split: str, spec: str
) -> RecordSource:
    """Opens a data set by name; its bytes become text, its class labels their names."""
    raw = open_by_name(argument, split, spec)
    plain = lambda record: Record(record.name, _plain(record.fields, raw.features))
    return RecordSource(lambda: map(plain, raw.records()), raw.fingerprint)


def _plain(value: Any, feature: Any = None) -> Any:
    """Turns values of NumPy and TFDS into Python's own, and class labels into their names."""
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
        return feature.int2str(value) if value >= 0 else value  # -1: a test set without labels.
    return value


def _python_stdlib(argument: str, split: str, spec: str) -> RecordSource:
    """Makes an embedded example of the running Python's own standard library."""
    choices = [f"python_stdlib:{name}" for name in builtin.TASKS]
    choose("data.source", f"python_stdlib:{argument}", choices)
    if spec:
        raise UserError(f"data.{split}={spec!r} means nothing to python_stdlib; leave it out")
    return RecordSource(
        lambda: (Record(*item) for item in builtin.read(argument, split)),
        lambda: f"{argument} {builtin.fingerprint()}",
    )


def _modular_addition(argument: str, split: str, spec: str) -> RecordSource:
    """Adds all pairs of numbers modulo the one in `data.train` (Power et al. 2022, app. A.1.1).

    A number is a character, 0 is `!`. Modulo 5, 1 + 3 = 4 is {"text": "\"$", "label": "%"}.
    """
    if argument or not spec.isdigit() or not 2 <= int(spec) <= len(_SYMBOLS):
        raise UserError(
            f"data.{split}={spec!r} must be the modulus, 2 to {len(_SYMBOLS)}, of "
            "data.source=modular_addition"
        )

    def sums(modulus: int) -> Iterator[Record]:
        for a, b in itertools.product(range(modulus), repeat=2):
            fields = {"text": _SYMBOLS[a] + _SYMBOLS[b], "label": _SYMBOLS[(a + b) % modulus]}
            yield Record(f"{a} + {b} modulo {modulus}", fields)

    return RecordSource(lambda: sums(int(spec)), lambda: f"modular_addition {spec}")


_SYMBOLS = bytes(range(ord("!"), ord("~") + 1)).decode()  # A byte each, so that bytes are numbers.
_KINDS = {
    "files": _files,
    "tfds": functools.partial(_data_set, record_sources.open_tfds),
    "hf": functools.partial(_data_set, record_sources.open_hugging_face),
    "python_stdlib": _python_stdlib,
    "modular_addition": _modular_addition,
}
