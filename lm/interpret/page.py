"""Makes a page of what was seen: one file of HTML that needs no network.

A section is what is said of one text, and holds blocks; each function here makes one:

  flow     the text, its cells coloured by numbers
  matrix   maps from cells to cells, one at a time
  grid     a table of rows by cells, coloured, with a word in each place
  table    rows of numbers and words
"""

import base64
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lm.errors import UserError
from lm.interpret.cells import Cell

MAX_BYTES = 5_000_000  # Of a page; browsers become slow with more.
Block = dict[str, Any]


def section(name: str, blocks: Sequence[Block]) -> dict[str, Any]:
    """Makes what is said of one text."""
    return {"name": name, "blocks": list(blocks)}


def flow(title: str, cells: Sequence[Cell], measures: Sequence[Mapping[str, Any]]) -> Block:
    """Shows a text, whose cells are coloured by one of its measures; see `measure`."""
    return {"kind": "flow", "title": title, "cells": _cells(cells), "measures": list(measures)}


def measure(
    name: str, values_C: np.ndarray, *, unit: str = "", about: str = "", signed: bool = False
) -> dict[str, Any]:
    """Makes a number for each cell; NaN for none. `signed` ones have two colours around 0."""
    values = [_number(value) for value in np.asarray(values_C).tolist()]
    return {"name": name, "values": values, "unit": unit, "about": about, "signed": signed}


def matrix(
    title: str,
    rows: Sequence[Cell],
    columns: Sequence[Cell],
    maps: Mapping[str, np.ndarray],
    about: str = "",
) -> Block:
    """Shows one of several maps, each rows x columns of numbers from 0 to 1; exactly 0 is hidden.

    Numbers are kept to the next of 65,535 parts; what is above 0 is shown so.
    """
    of_bits = lambda x: np.where(x > 0, np.maximum(np.rint(x * 65535), 1), 0).astype("<u2")
    encoded = {name: base64.b64encode(of_bits(x).tobytes()).decode() for name, x in maps.items()}
    return {
        "kind": "matrix",
        "title": title,
        "rows": _cells(rows),
        "columns": _cells(columns),
        "maps": encoded,
        "about": about,
    }


def grid(
    title: str,
    rows: Sequence[str],
    columns: Sequence[Cell],
    values: np.ndarray,
    *,
    measure: str,
    unit: str = "",
    signed: bool = False,
    words: Sequence[Sequence[str]] | None = None,
    more: Sequence[Sequence[str]] | None = None,
    about: str = "",
) -> Block:
    """Shows a table of rows by cells, coloured by `values`, with `words` in it.

    `more` is said under the pointer.
    """
    shown = [[_number(float(value)) for value in row] for row in values]
    block = {"kind": "grid", "title": title, "rows": list(rows), "columns": _cells(columns)}
    block |= {"values": shown, "measure": measure, "unit": unit, "signed": signed, "about": about}
    block |= {"words": words} if words is not None else {}
    return block | ({"more": more} if more is not None else {})


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], about: str = "") -> Block:
    """Shows rows of numbers and words."""
    shown = [[_number(x) if isinstance(x, float) else x for x in row] for row in rows]
    return {"kind": "table", "title": title, "head": list(head), "rows": shown, "about": about}


def page(title: str, lines: Sequence[str], sections: Sequence[Mapping[str, Any]]) -> str:
    """Makes the page.

    Raises:
      UserError: it would have more than `MAX_BYTES`.
    """
    data = {"title": title, "lines": list(lines), "sections": list(sections)}
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    # Nothing of a text may end the element that it is in.
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    made = _TEMPLATE.read_text(encoding="utf-8").replace("__DATA__", text)
    if (size := len(made.encode())) > MAX_BYTES:
        raise UserError(
            f"the page would have {size:,} bytes, and at most {MAX_BYTES:,} are possible; give "
            "fewer or shorter texts, or name layers and heads"
        )
    return made


_TEMPLATE = pathlib.Path(__file__).parent / "page.html"


def _cells(cells: Sequence[Cell]) -> list[list[Any]]:
    return [[cell.before, cell.text, int(cell.is_special)] for cell in cells]


def _number(value: float) -> float | None:
    # As JSON has no NaN; six digits are more than a page shows.
    return float(f"{value:.6g}") if math.isfinite(value) else None
