"""Readers: an input's bytes -> its documents, and by name what nobody can read of it.

Each takes a file and yields `Found` and `Lost`; none raises for what stands in the file.
"""

import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lm.curation import web_archives, web_text
from lm.curation.records import Found, Lost
from lm.errors import UserError
from lm.formats import fields as fields_lib
from lm.formats import files, formats, tables

ReadFn = Callable[..., Iterator[Found | Lost]]


def text(path: pathlib.Path, *, max_bytes: int) -> Iterator[Found | Lost]:
    """Reads a file as one document, in UTF-8."""
    place = files.shown(path)
    try:
        yield Found("".join(files.decoded(path, max_bytes)), place)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        yield Lost(place, "damaged_file", path.stat().st_size)
    except UserError as error:
        yield Lost(place, reason_of(error), path.stat().st_size)


def json_lines(path: pathlib.Path, *, max_bytes: int, field: str) -> Iterator[Found | Lost]:
    """Reads a document a line, the text in a field of its object; blank lines are none."""
    name, end = files.shown(path), 0
    try:
        for number, line in enumerate(files.lines(path, max_bytes)):
            if isinstance(line, files.Line):
                end = line.offset + len(line.data)
                if line.data.isspace():
                    continue
                place = f"{name}:{line.number}"
                yield _of_json(place, bytes(line.data).rstrip(b"\r\n"), field)
            else:
                size = getattr(line, "num_bytes", 0)
                end += size
                yield Lost(str(line).partition(": ")[0] or f"{name}:?{number}", "too_long", size)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        yield rest_lost(name, end)
    except UserError as error:  # Of the file as a whole, as when it is UTF-16.
        yield Lost(name, reason_of(error), path.stat().st_size)


def _of_json(place: str, data: bytes, field: str) -> Found | Lost:
    try:
        fields = json.loads(data.decode())
    except UnicodeDecodeError:
        return Lost(place, "not_utf8", len(data))
    except RecursionError:
        return Lost(place, "too_deep", len(data))
    except ValueError:  # A number of thousands of digits is one, too.
        return Lost(place, "not_json", len(data))
    if not isinstance(fields, dict):
        return Lost(place, "not_an_object", len(data))
    if fields_lib.is_deep(fields):
        return Lost(place, "too_deep", len(data))
    return of_fields(place, fields, field, len(data))


def of_fields(place: str, fields: dict[str, Any], field: str, num_bytes: int) -> Found | Lost:
    """Takes the text out of a record that takes `num_bytes`."""
    try:
        value = fields_lib.lookup(fields, field)
    except KeyError:
        head = f"there are {fields_lib.names_of(fields)}"
        return Lost(place, "no_such_field", num_bytes, head)
    if isinstance(value, bytes):  # TFDS and Parquet may keep text as UTF-8.
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return Lost(place, "not_utf8", num_bytes)
    if value is None:
        return Lost(place, "text_is_null", num_bytes)
    if not isinstance(value, str):
        return Lost(place, "text_is_no_string", num_bytes)
    if files.half_character(place, value) is not None:
        return Lost(place, "half_surrogate", num_bytes)
    return Found(value, place)


def table(path: pathlib.Path, *, max_bytes: int, field: str) -> Iterator[Found | Lost]:
    """Reads a document a row of a table under a header, between commas or tabs by its suffix."""
    suffixes = [s.lower() for s in path.suffixes]
    read = tables.tab_separated if ".tsv" in suffixes else tables.comma_separated
    name, num_read = files.shown(path), 0
    try:
        for item in read(path, max_bytes):
            if isinstance(item, UserError):
                yield _lost(item)
            else:
                num_read += 1
                size = tables.num_bytes(item.fields.values())
                yield of_fields(item.name, item.fields, field, size)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        yield Lost(f"{name}: behind record {num_read}", "rest_of_file")
    except UserError as error:
        yield Lost(name, reason_of(error), path.stat().st_size)


def json_tree(path: pathlib.Path, *, max_bytes: int, field: str) -> Iterator[Found | Lost]:
    """Reads a document an object of a list, or a question of SQuAD; only texts are bounded."""
    name = files.shown(path)
    try:
        for item in formats.FORMATS[".json"](path, files.MAX_DOCUMENT_BYTES):
            if isinstance(item, UserError):
                yield _lost(item)
            else:
                yield of_value(item.name, item.fields, field, max_bytes)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        yield Lost(name, "damaged_file", path.stat().st_size)
    except UserError as error:
        yield Lost(name, reason_of(error), path.stat().st_size)


def parquet(path: pathlib.Path, *, max_bytes: int, field: str) -> Iterator[Found | Lost]:
    """Reads a document a row of a Parquet file, batch by batch."""
    pyarrow = import_pyarrow(path)
    name, row = files.shown(path), 0
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            top = field if field in file.schema_arrow.names else field.partition(".")[0]
            columns = [top] if top in file.schema_arrow.names else []
            for batch in file.iter_batches(batch_size=256, columns=columns):
                nothing = dict.fromkeys(file.schema_arrow.names)
                rows = batch.to_pylist() if columns else [nothing] * batch.num_rows
                for fields in rows:
                    yield of_value(f"{name}:{row}", fields, field, max_bytes)
                    row += 1
    except pyarrow.lib.ArrowException:
        yield Lost(f"{name}: behind record {row}", "damaged_file", path.stat().st_size)
    except OSError as error:  # pyarrow raises it for damage, too.
        files.raise_of_machine(error)
        yield Lost(f"{name}: behind record {row}", "damaged_file", path.stat().st_size)


def import_pyarrow(path: pathlib.Path) -> Any:
    """Imports pyarrow; raises UserError where it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"{files.shown(path)}: Parquet needs pyarrow; run: pip install pyarrow"
        ) from None
    return pyarrow


def records(
    items: Iterable[fields_lib.Record], *, max_bytes: int, field: str
) -> Iterator[Found | Lost]:
    """Reads a document a record of what TFDS or `datasets` opened."""
    for item in items:
        yield of_value(item.name, item.fields, field, max_bytes)


def of_value(place: str, fields: dict[str, Any], field: str, max_bytes: int) -> Found | Lost:
    """Takes the text out of a record that has no bytes of its own; those of a loss are its value's.

    A text that is longer than `max_bytes` is lost.
    """
    value = fields_lib.lookup(fields, field) if fields_lib.has(fields, field) else None
    size = fields_lib.num_bytes_of(value)
    found = of_fields(place, fields, field, size)
    return Lost(place, "too_long", size) if isinstance(found, Found) and size > max_bytes else found


def _lost(error: UserError) -> Lost:
    return Lost(str(error).partition(": ")[0], reason_of(error), getattr(error, "num_bytes", 0))


def rest_lost(name: str, num_unpacked: int) -> Lost:
    """Names what lies behind the damage of a packed file, of which nobody knows the size."""
    return Lost(f"{name}: behind byte {num_unpacked}", "rest_of_file")


def reason_of(error: UserError) -> str:
    """Names why a file or a record of it cannot be read."""
    for kind, reason in _REASONS.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, formats.BadJson):
        return error.reason
    said = str(error)
    return next((reason for words, reason in _BY_WORDS if words in said), "malformed")


_REASONS = {
    files.NotUtf8: "not_utf8",
    files.TooLong: "too_long",
    files.RestUnread: "rest_of_file",
    tables.UnequalRow: "unequal_row",
}
_BY_WORDS = (("is packed", "packed"), ("not UTF-8", "not_utf8"))


def read(
    kind: str, path: pathlib.Path, *, field: str, max_bytes: int, limits: web_text.Limits
) -> Iterator[Found | Lost]:
    """Reads a file of a kind."""
    options = {"field": field} if kind in OF_FIELDS else {}
    options |= {"limits": limits} if kind in OF_WEB else {}
    yield from (OF_TEXT | OF_FIELDS | OF_WEB)[kind](path, max_bytes=max_bytes, **options)


def kind_of(path: pathlib.Path) -> str | None:
    """Gives the kind that a suffix names, whatever packs the file; None where it names none."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in files.PACKED]
    return SUFFIXES.get(suffixes[-1] if suffixes else "")


OF_TEXT: dict[str, ReadFn] = {"text": text}
OF_FIELDS: dict[str, ReadFn] = {
    "jsonl": json_lines,
    "json": json_tree,
    "csv": table,
    "parquet": parquet,
}
OF_WEB: dict[str, ReadFn] = {"html": web_archives.html, "warc": web_archives.archive}
SUFFIXES = {
    ".txt": "text",
    ".md": "text",
    ".rst": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".html": "html",
    ".htm": "html",
    ".warc": "warc",
    ".wet": "warc",
}
