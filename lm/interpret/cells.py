"""Groups the tokens of a text into cells that people can read: whole characters, never bytes.

Dimension key: L tokens, C cells.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from lm.tokenizers.offsets import Offsets
from lm.tokenizers.tokenizers import Tokenizer


class Cell(NamedTuple):
    """Tokens that stand for the same characters, which follow each other.

    Of the text "the 中" the byte-level tokens `the`, ` `, and three bytes of the character make

        Cell("the", 0, 1, False), Cell(" ", 1, 2, False), Cell("中", 2, 5, False)
    """

    text: str  # Its characters, with its spaces; of a special token the name.
    first: int  # Index of its first token,
    end: int  # and of the one behind its last.
    is_special: bool
    before: str = ""  # Spaces of the text that no token stands for.


def of_text(text: str, offsets: Offsets, first: int = 0) -> list[Cell]:
    """Makes the cells of a text's tokens, the first of which is token `first` of the row."""
    starts, ends = offsets.starts.tolist(), offsets.ends.tolist()
    groups: list[list[int]] = []  # Start and end in characters, first token and the one behind.
    for j, (start, end) in enumerate(zip(starts, ends, strict=True)):
        # Parts of one character overlap; a space that was added goes with what it was added to.
        if groups and (start < groups[-1][1] or groups[-1][0] == groups[-1][1] == start):
            groups[-1][1], groups[-1][3] = max(groups[-1][1], end), j + 1
        else:
            groups.append([start, end, j, j + 1])
    cells, at = [], 0
    for start, end, left, right in groups:
        before = text[at:start] if start > at else ""
        cells.append(Cell(text[start:end], first + left, first + right, False, before))
        at = max(at, end)
    return cells


def of_ids(tokenizer: Tokenizer, ids: Sequence[int], first: int = 0) -> list[Cell]:
    """Makes the cells of tokens whose text is not known, from what they decode to."""
    cells, begun = [], 0
    for j, token_id in enumerate(ids):
        if tokenizer.is_special(token_id):
            cells.append(Cell(tokenizer.piece(token_id), first + j, first + j + 1, True))
            begun = j + 1
            continue
        is_last = j + 1 == len(ids) or tokenizer.is_special(ids[j + 1])
        data = b"".join(map(tokenizer.raw, ids[begun : j + 1]))
        text = data.decode(errors="replace")
        # A character that is not whole yet waits for its other bytes, of which there are three.
        if "\ufffd" in text and not is_last and j + 1 - begun < 4:
            continue
        cells.append(Cell(text, first + begun, first + j + 1, False))
        begun = j + 1
    return cells


def over_cells(values_L: np.ndarray, cells: Sequence[Cell], *, how: str, axis: int) -> np.ndarray:
    """Brings an axis of tokens to one of cells: by the "sum" or the "mean" of each cell's tokens.

    NaN, of tokens that have no value, count for nothing; a cell of them alone is NaN.
    """
    values = np.moveaxis(np.asarray(values_L, np.float64), axis, 0)
    found = []
    for cell in cells:
        part = values[cell.first : cell.end]
        there = ~np.isnan(part)
        total = np.where(there, part, 0.0).sum(axis=0)
        count = there.sum(axis=0)
        scaled = total if how == "sum" else total / np.maximum(count, 1)
        found.append(np.where(count > 0, scaled, np.nan))
    return np.moveaxis(np.array(found), 0, axis)
