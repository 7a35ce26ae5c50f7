"""Long contexts in windows that overlap, and the answers in them."""

from typing import NamedTuple

import numpy as np

from lm.data.tokenizers import Offsets
from lm.errors import UserError


class Window(NamedTuple):
    """Part of a context: its pieces from `first` up to, not including, `end`."""

    first: int
    end: int


def windows(num_pieces: int, *, size: int, stride: int) -> list[Window]:
    """Windows of up to `size` pieces that start `stride` apart and cover all.

    10 pieces in windows of 6, 3 apart: 0 to 6, 3 to 9, 6 to 10.
    """
    starts = range(0, max(num_pieces - size + stride, 1), stride)
    return [Window(start, min(start + size, num_pieces)) for start in starts]


def check_windows(name: str, *, size: int, stride: int) -> None:
    """Raises UserError where windows would hold nothing, or leave something out between them."""
    if size < 1:
        raise UserError(f"{name}: the question leaves no room for its context; raise data.seq_len")
    if not 1 <= stride <= size:
        raise UserError(
            f"{name}: task.stride={stride} must be at least 1 and at most the {size} pieces of "
            "context that a window holds beside this question; lower it, or raise data.seq_len"
        )


def answer_pieces(offsets: Offsets, start: int, end: int) -> tuple[int, int] | None:
    """First and last piece of those that hold the characters from `start` to `end`.

    None where no piece holds any: a tokenizer may drop characters.
    """
    touched = np.flatnonzero((offsets.starts < end) & (offsets.ends > start))
    return (int(touched[0]), int(touched[-1])) if len(touched) else None


def answer_text(context: str, offsets: Offsets, first: int, last: int) -> str:
    """The characters that pieces `first` to `last` stand for, without spaces around them."""
    return context[offsets.starts[first] : offsets.ends[last]].strip()
