"""Tables for a terminal, for a pipe and for a page; no cell is ever cut short."""

import html
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple, TextIO

import rich.box
import rich.console
import rich.measure
import rich.table
from rich.cells import cell_len
from rich.text import Text

from lm.system import safe_text

_NUMBER = re.compile(r"[±\-]?[\d.,]+(e[+-]?\d+)?(/[\d.,]+)?|NaN")


class Table(NamedTuple):
    """Text in rows; each has as many cells as there are columns.

    num_names: how many of the first columns say what a row is about.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_names: int


def show(table: Table, file: TextIO | None = None, width: int | None = None) -> None:
    """Prints a table: with lines on a terminal, as aligned text anywhere else.

    Args:
      file: stdout if not given.
      width: of the terminal; its own if not given.
    """
    table = _safe(table)
    console = rich.console.Console(file=file or sys.stdout, width=width)
    if not console.is_terminal:
        console.file.write(_plain(table) + "\n\n")
        return
    for break_headers in (False, True):  # At dots, slashes and spaces.
        grid = _grid(table, range(len(table.columns)), break_headers)
        if _fits(grid, console):
            console.print(grid)
            return
    # Columns go on below, beside the names of the rows again; else each row becomes lines.
    grids = [_grid(table, columns, break_headers=True) for columns in _parts(table, console)]
    if all(_fits(grid, console) for grid in grids):
        console.print(*grids, sep="\n")
    else:
        _print_by_row(table, console)


def page(table: Table) -> str:
    """Writes the table as HTML."""
    table = _safe(table)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    tags = ["<td class=number>" if right else "<td>" for right in _right_aligned(table)]
    cell = lambda tag, text: f"{tag}{html.escape(text)}</td>"
    body = "\n".join(f"<tr>{''.join(map(cell, tags, row))}</tr>" for row in table.rows)
    return (
        f"<h2>{html.escape(table.title)}</h2>\n<div class=wide><table>\n"
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n"
    )


def _safe(table: Table) -> Table:
    rows = [list(map(safe_text.shown, row)) for row in table.rows]  # From files of others.
    columns = list(map(safe_text.shown, table.columns))
    return Table(safe_text.shown(table.title), columns, rows, table.num_names)


def _grid(table: Table, columns: Sequence[int], break_headers: bool) -> rich.table.Table:
    """Lays out some columns; the title stands above the first part of a table alone."""
    is_first = table.num_names in columns or len(columns) == len(table.columns)
    grid = rich.table.Table(
        title=Text(table.title, style="bold") if is_first else None,
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
    )
    right = _right_aligned(table)
    for i in columns:
        header = table.columns[i]
        if break_headers:
            header = re.sub(r"(?<=[./])(?=\w\w)| ", "\n", header)
        justify = "right" if right[i] else "left"
        grid.add_column(Text(header), justify=justify, overflow="fold")
    for row in table.rows:
        grid.add_row(*(Text(row[i]) for i in columns))
    return grid


def _fits(grid: rich.table.Table, console: rich.console.Console) -> bool:
    # Asked without a limit, or rich would say what it would fold. A title may take several lines.
    options = console.options.update(width=10**6)
    return rich.measure.Measurement.get(console, options, grid).maximum <= console.width


def _parts(table: Table, console: rich.console.Console) -> list[list[int]]:
    """Splits the columns into as few parts as fit, each beside those of names."""
    names = list(range(table.num_names))
    parts = [names]
    for i in range(table.num_names, len(table.columns)):
        # One column at least, though it may not fit: a part of names alone says nothing.
        if parts[-1] == names or _fits(_grid(table, [*parts[-1], i], True), console):
            parts[-1] = [*parts[-1], i]
        else:
            parts.append([*names, i])
    return parts


def _print_by_row(table: Table, console: rich.console.Console) -> None:
    """Prints a line for each cell that says something; the terminal wraps long ones."""
    console.print(Text(table.title, style="bold"))
    indent = max(map(cell_len, table.columns))
    for row in table.rows:
        console.rule(characters="-")
        for name, cell in zip(table.columns, row, strict=True):
            if cell:
                console.print(Text(f"{_padded(name, indent)}  {cell}"), overflow="fold")
    console.print()


def _plain(table: Table) -> str:
    rows = [table.columns, *table.rows]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    right = _right_aligned(table)
    lines = [
        "  ".join(
            _padded(cell, width, r) for cell, width, r in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines])


def _padded(cell: str, width: int, right: bool = False) -> str:
    space = " " * (width - cell_len(cell))  # `str.ljust` counts a Chinese character as one cell.
    return space + cell if right else cell + space


def _right_aligned(table: Table) -> list[bool]:
    """Says of each column whether all that stands in it are numbers."""
    columns = zip(*table.rows, strict=True) if table.rows else [()] * len(table.columns)
    return [
        any(column) and all(not cell or _NUMBER.fullmatch(cell) for cell in column)
        for column in columns
    ]
