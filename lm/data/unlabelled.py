"""Text to make predictions for: any format of records, or plain text, a line a record."""

import itertools
import pathlib
from collections.abc import Callable, Iterable, Iterator

from lm.data.records import checked
from lm.errors import UserError
from lm.formats import files, formats
from lm.formats.fields import Record

FORMATS = ("auto", "jsonl", "text")


def read(
    path: pathlib.Path,
    text_format: str,
    max_bytes: int,
    from_text: Callable[[str, str], Record],
    say: Callable[[str], None],
) -> Iterator[Record | UserError]:
    """Yields the records of a file; in place of what cannot be read, the error.

    Args:
      path: of the file; `files.STDIN` for standard input.
      text_format: "jsonl"; "text"; or "auto", by which the suffix says what it is, and where that
        says nothing, the first line.
      max_bytes: the longest record.
      from_text: (name, line) -> record of a line of plain text.
      say: is told what the file was taken for.
    """
    if text_format == "auto" and formats.is_known(path):
        reader = formats.reader_of(path)
        items: Iterable[Record | UserError] = formats.read(path, max_bytes, reader)
    else:
        lines = formats.read(path, max_bytes, files.text_lines)
        if text_format == "auto":
            before, text = [], ""
            for line in lines:
                before.append(line)
                text = "" if isinstance(line, UserError) else line.text.lstrip()
                if text:
                    break
            text_format = "jsonl" if text.startswith("{") else "text"
            # Standard input cannot be read twice, so what was looked at is put back.
            lines = itertools.chain(before, lines)
        said = {"jsonl": "JSON Lines", "text": "plain text, a record a line"}
        say(f"{files.shown(path)} is read as {said[text_format]}")
        items = _records(path, lines, text_format, from_text)
    yield from checked(items)


def _records(
    path: pathlib.Path,
    lines: Iterable[files.TextLine | UserError],
    text_format: str,
    from_text: Callable[[str, str], Record],
) -> Iterator[Record | UserError]:
    for line in lines:
        if isinstance(line, UserError):
            yield line
            continue
        name = f"{files.shown(path)}:{line.number}"
        if text_format == "text":
            yield from_text(name, line.text)
        elif line.text.strip():  # An empty line is no record of JSON Lines, but one of plain text.
            yield formats.json_object(name, line.text)
