"""Reads tables: values between commas or tabs, under a header."""

import collections
import csv
import pathlib
import re
from collections.abc import Iterable, Iterator

from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record


class UnequalRow(UserError):
    """A row has another number of values than its header; `num_bytes` are those of its values."""

    def __init__(self, name: str, row: list[str], num_columns: int):
        super().__init__(
            f"{name}: {len(row)} values under a header of {num_columns}; mend the line, or set "
            f"{files.SKIP}"
        )
        self.num_bytes = num_bytes(row)


def num_bytes(values: Iterable[str]) -> int:
    """Counts the bytes of values, those too that are no UTF-8."""
    return sum(len(value.encode(errors="surrogateescape")) for value in values)


class _TextLines:
    """Iterates over the lines of a table as text with their ends; `number` counts those read."""

    def __init__(self, path: pathlib.Path, max_bytes: int):
        self.name, self.number = files.shown(path), 0
        self.max_bytes, self.opens_quote = max_bytes, False
        self.bad: dict[int, files.NotUtf8] = {}
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
            # Whether it opens a quote that it does not close, in which lines behind it are then.
            self.opens_quote = isinstance(line, files.LineTooLong) and line.num_quotes % 2 == 1
            raise line  # The next call goes on behind it.
        self.number = line.number
        try:
            return line.data.decode()
        except UnicodeDecodeError as error:
            name = f"{self.name}:{line.number}"
            offset = line.offset + error.start
            self.bad[line.number] = files.not_utf8(name, line.data, error, offset)
            return line.data.decode(errors="surrogateescape")  # A value may go on behind it.

    def peek(self) -> str | UserError | None:
        """Returns the next line without reading it, or what will be raised; None at the end."""
        try:
            line = next(self, None)
        except UserError as error:
            line = error
        self.give_back([line] if line is not None else [])
        return line

    def give_back(self, lines: list[str | UserError]) -> None:
        """Puts lines back, to be read again as the next ones."""
        self.number -= len(lines)
        self._held.extendleft(reversed(lines))


def comma_separated(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads comma-separated values under a header, quoted where they need it (RFC 4180)."""
    lines = _TextLines(path, max_bytes)
    csv.field_size_limit(max_bytes)  # Of the process; by default 131,072 characters a value.
    return _table(lines, csv.reader(lines, strict=True))


def _table(lines: _TextLines, rows: Iterator[list[str]]) -> Iterator[Record | UserError]:
    header: list[str] | None = None
    for name, row in _named_rows(lines, rows):
        if isinstance(row, UserError):
            yield row
            if header is None:  # Nobody knows what the values below it are called.
                return
        elif header is None:
            header = row or None  # Blank lines may come first.
            if twice := [column for column in row if column and row.count(column) > 1]:
                yield UserError(f"{name}: two columns are named {twice[0]!r}")
                return
        elif row and len(row) != len(header):
            yield UnequalRow(name, row, len(header))
        elif row:
            yield Record(name, dict(zip(header, row, strict=True)))


def _named_rows(
    lines: _TextLines, rows: Iterator[list[str]]
) -> Iterator[tuple[str, list[str] | UserError]]:
    """Yields each row, or why it is none, by the file and line that it begins at.

    Ends at an error inside of quotes, behind which nobody knows what is quoted.
    """
    while True:
        first = lines.number + 1
        name = f"{lines.name}:{first}"
        row: list[str] | UserError
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:  # The module tells these apart by their texts alone.
            if str(error).startswith("unexpected end"):
                row = files.RestUnread(
                    f"{name}: a quote is opened and never closed, so that the rest of the file was "
                    f"not read; mend the line, or set {files.SKIP}"
                )
            elif lines.number > first and "field limit" in str(error):
                too_long = files.longer(name, lines.max_bytes)
                row = files.RestUnread(f"{too_long} to go without the rest of the file, too")
            else:
                row = UserError(f"{name}: {error}; mend the line, or set {files.SKIP}")
        except UserError as error:
            row = error
            if lines.number > first or lines.opens_quote:
                row = files.RestUnread(f"{error} to go without the rest of the file, too")
        else:  # A line that is no UTF-8 was read as if it were, to find the end of its row.
            for bad in filter(None, map(lines.bad.get, range(first, lines.number + 1))):
                bad.num_bytes, row = num_bytes(row), bad
                break
        yield name, row
        if isinstance(row, files.RestUnread):
            return


def tab_separated(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads tab-separated values under a header; quotes are text, as in GLUE's files.

    They quote (RFC 4180) where they must: in a file whose header is quoted; in a value with doubled
    quotes between its own; and where a row has another number of columns than the header, or its
    last one goes on on lines that are no rows, and the numbers agree once quotes count.
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
    """Iterates over rows of so many columns, and goes on after an error, as no generator does."""

    def __init__(self, lines: _TextLines, num_columns: int):
        self._lines, self._num_columns = lines, num_columns

    def __iter__(self):
        return self

    def __next__(self) -> list[str]:
        try:
            line = next(self._lines)
        except files.LineTooLong as error:  # By the rules below, as far as it is known.
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
        """Returns the row that begins with this line, if it is one of quoted values."""
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
