"""Tables as text: values between commas or tabs, under a header."""

import collections
import csv
import pathlib
import re
from collections.abc import Iterator

from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record


class _TextLines:
    """The lines of a table as text with their ends, and how far they have been read.

    A line that is too long is raised, and the next call goes on behind it; `opens_quote` says then
    whether it opens a quote that it does not close. What is no UTF-8 becomes half characters, for a
    value may go on behind it; `bad` says what it was, by the line's number.
    """

    def __init__(self, path: pathlib.Path, max_bytes: int):
        self.name, self.number = files.shown(path), 0
        self.max_bytes, self.opens_quote = max_bytes, False
        self.bad: dict[int, UserError] = {}
        self._lines = files.lines(path, max_bytes)
        self._held = collections.deque[str | UserError]()

    def __iter__(self):
        return self

    def __next__(self) -> str:
        line = self._held.popleft() if self._held else next(self._lines)
        self.number += 1
        if isinstance(line, str):
            return line
        if isinstance(line, UserError):
            self.opens_quote = isinstance(line, files.LineTooLong) and line.num_quotes % 2 == 1
            raise line
        self.number = line.number
        try:
            return line.data.decode()
        except UnicodeDecodeError as error:
            name = f"{self.name}:{line.number}"
            offset = line.offset + error.start
            self.bad[line.number] = files.not_utf8(name, line.data, error, offset)
            return line.data.decode(errors="surrogateescape")

    def peek(self) -> str | UserError | None:
        """The next line, which is still to be read, or what will be raised; None at the end."""
        try:
            line = next(self, None)
        except UserError as error:
            line = error
        self.give_back([line] if line is not None else [])
        return line

    def give_back(self, lines: list[str | UserError]) -> None:
        """They are read again, as the next ones."""
        self.number -= len(lines)
        self._held.extendleft(reversed(lines))


def comma_separated(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Comma-separated values under a header, quoted where they need it (RFC 4180)."""
    lines = _TextLines(path, max_bytes)
    csv.field_size_limit(max_bytes)
    return _table(lines, csv.reader(lines, strict=True))


def _table(lines: _TextLines, rows: Iterator[list[str]]) -> Iterator[Record | UserError]:
    header: list[str] | None = None
    while True:
        first = lines.number + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if str(error).startswith("unexpected end"):
                yield files.RestUnread(
                    f"{lines.name}:{first}: a quote is opened and never closed, so that the rest "
                    f"of the file was not read; mend the line, or set {files.SKIP}"
                )
                return
            if lines.number > first and "field limit" in str(error):
                too_long = files.longer(f"{lines.name}:{first}", lines.max_bytes)
                yield files.RestUnread(f"{too_long} to go without the rest of the file, too")
                return
            yield UserError(f"{lines.name}:{first}: {error}; mend the line, or set {files.SKIP}")
            if header is None:
                return
            continue
        except UserError as error:
            if lines.number > first or lines.opens_quote:
                yield files.RestUnread(f"{error} to go without the rest of the file, too")
                return
            yield error
            if header is None:
                return
            continue
        if bad := [n for n in range(first, lines.number + 1) if n in lines.bad]:
            yield lines.bad[bad[0]]
            if header is None:
                return
        elif header is None and not row:
            continue  # Blank lines may come first.
        elif header is None:
            header = row
            if twice := [name for name in header if name and header.count(name) > 1]:
                yield UserError(f"{lines.name}:{first}: two columns are named {twice[0]!r}")
                return
        elif row and len(row) != len(header):
            yield UserError(
                f"{lines.name}:{first}: {len(row)} values under a header of {len(header)}; mend "
                f"the line, or set {files.SKIP}"
            )
        elif row:
            yield Record(f"{lines.name}:{first}", dict(zip(header, row, strict=True)))


def tab_separated(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Tab-separated values under a header; quotes are text, as in GLUE's files.

    Where they must be more than that they are (RFC 4180): in a file whose header is quoted; in a
    value with doubled quotes between its own; where a row has other columns than the header, or a
    last one that goes on on lines that are no rows, and has as many once its quotes are obeyed.
    """
    lines = _TextLines(path, max_bytes)
    csv.field_size_limit(max_bytes)
    header = next((line for line in lines if line.strip("\r\n")), None)
    if header is None:
        return iter(())
    cells = header.rstrip("\r\n").split("\t")
    lines.give_back([header])
    if all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells):
        return _table(lines, csv.reader(lines, delimiter="\t", strict=True))
    return _table(lines, _TabRows(lines, len(cells)))


_MAX_LINES = 1000  # Of one value; more are a quote that belongs to the text.
_DOUBLED = re.compile(r'"(?:[^"]|"")*""(?:[^"]|"")*"')


class _TabRows:
    """Rows of so many columns; an iterator that goes on after an error."""

    def __init__(self, lines: _TextLines, num_columns: int):
        self._lines, self._num_columns = lines, num_columns

    def __iter__(self):
        return self

    def __next__(self) -> list[str]:
        try:
            line = next(self._lines)
        except files.LineTooLong as error:  # As below, as far as is known of it.
            fits = error.num_tabs == self._num_columns - 1
            self._lines.opens_quote &= not (fits and self._is_row_next())
            raise
        cells = line.rstrip("\r\n").split("\t")
        if cells == [""]:
            return []
        fits = len(cells) == self._num_columns
        goes_on = cells[-1].startswith('"') and cells[-1].count('"') % 2
        may_be_quoted = any(cell.startswith('"') for cell in cells)
        is_odd = not fits or (goes_on and not self._is_row_next())
        if may_be_quoted and is_odd and (row := self._quoted(line)):
            return row
        return [
            cell[1:-1].replace('""', '"') if _DOUBLED.fullmatch(cell) else cell for cell in cells
        ]

    def _is_row_next(self) -> bool:
        line = self._lines.peek()
        return not isinstance(line, str) or line.count("\t") == self._num_columns - 1

    def _quoted(self, line: str) -> list[str] | None:
        """The row that begins with this line, if it is one of quoted values."""
        taken, size, num_quotes = [line], len(line), line.count('"')
        while num_quotes % 2 and len(taken) < _MAX_LINES and isinstance(self._lines.peek(), str):
            taken.append(next(self._lines))
            size, num_quotes = size + len(taken[-1]), num_quotes + taken[-1].count('"')
            if size > self._lines.max_bytes:
                break
        try:
            (row,) = csv.reader(iter(["".join(taken)]), delimiter="\t", strict=True)
        except (csv.Error, ValueError):
            row = []
        if len(row) == self._num_columns:
            return row
        self._lines.give_back(taken[1:])
        return None
