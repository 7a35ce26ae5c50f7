"""Packing: documents of any length into rows of one length, no token lost."""

import bisect
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

NO_NEXT = -1  # In place of a next token: the document ends here.


class Piece(NamedTuple):
    """A run of tokens of one document, and the token that follows it there (NO_NEXT: none)."""

    tokens: np.ndarray
    next_token: int


def split(parts: Iterable[np.ndarray], seq_len: int) -> Iterator[Piece]:
    """Cuts a document into pieces of at most `seq_len` tokens; an empty one has no piece.

    split([[5, 6, 7], [8, 9]], 2) is [5, 6] before 7, [7, 8] before 9, [9] before NO_NEXT.
    """
    held = np.zeros(0, np.int32)
    for part in parts:
        held = np.concatenate([held, part]) if len(held) else part
        end = max(len(held) - 1, 0) // seq_len * seq_len  # The last piece waits for its next token.
        for start in range(0, end, seq_len):
            yield Piece(held[start : start + seq_len], int(held[start + seq_len]))
        held = held[end:]  # A token at least, once one came: the last piece has NO_NEXT.
    if len(held):
        yield Piece(held, NO_NEXT)


def pack(
    documents: Iterable[Iterable[np.ndarray]], seq_len: int, max_open: int = 256
) -> Iterator[list[Piece]]:
    """Packs documents into rows by streaming best fit.

    A piece goes into the fullest of the open rows that has room for it, or else opens a row; the
    fullest row is closed when more than `max_open` are open. The rows depend on nothing but the
    documents and their order. Without that bound this is best fit as in Johnson et al. (1974),
    which needs at most 1.7 times the rows of an optimal packing.

        documents   [1 2 3 4 5] [6 7] [8]       seq_len 4
        rows        [1 2 3 4] [5 6 7 8]
        next         2 3 4 5   - 7 - -

    Args:
      documents: of any length; the token ids of each come in one array or several.
      seq_len: tokens a row can hold.
      max_open: rows that may wait for a piece that fits.

    Yields:
      Rows: lists of pieces, in the order in which they stand in the row.
    """
    room: list[int] = []  # Ascending; what each open row can still hold.
    rows: list[list[Piece]] = []  # The open rows, in the same order.
    for document in documents:
        for piece in split(document, seq_len):
            row, left = [], seq_len
            fitting = bisect.bisect_left(room, len(piece.tokens))
            if fitting < len(room):
                row, left = rows.pop(fitting), room.pop(fitting)
            row.append(piece)
            left -= len(piece.tokens)
            if left == 0:
                yield row
                continue
            place = bisect.bisect_left(room, left)  # Before equal ones: ties go to the newest row.
            room.insert(place, left)
            rows.insert(place, row)
            if len(rows) > max_open:
                del room[0]  # The fullest, whose room is least likely to be filled.
                yield rows.pop(0)
    yield from rows
