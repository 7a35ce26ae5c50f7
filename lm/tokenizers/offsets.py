"""Says which characters of a text each of its tokens stands for, whatever its library counts.

Dimension key: L tokens.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.tokenizers import sentencepiece_proto
from lm.tokenizers.pieces import SPACE_MARK

Range = tuple[int, int]  # Characters from the first up to, not including, the second.
_BYTE_SPACE = "Ġ"  # As byte-level BPE spells a space.


class Offsets(NamedTuple):
    """The tokens of a text and where they stand in it: three times int32 of equal length.

    Token j stands for the characters (code points) from starts[j] up to, not including, ends[j]:

        "the 中s"   token  the   ▁    <0xE4>  <0xB8>  <0xAD>  s
                   start  0     3    4       4       4       5
                   end    3     4    5       5       5       6

    A space that belongs to a token is in its range, and every part of one character has the whole
    of it. Both starts and ends never decrease. A character that the tokenizer drops, such as an
    accent, belongs to the token that it touches: the one before it, or else the one behind. So all
    characters but spaces have a token, unless they are dropped and stand between spaces. A space
    that the tokenizer adds stands for no character: its range is empty.
    """

    ids: np.ndarray
    starts: np.ndarray
    ends: np.ndarray


def from_ranges(ids: Sequence[int], ranges: Sequence[Range]) -> Offsets:
    """Makes offsets from one (start, end) a token."""
    ranges_L2 = np.array(ranges, np.int32).reshape(-1, 2)
    return Offsets(np.asarray(ids, np.int32), ranges_L2[:, 0], ranges_L2[:, 1])


def characters_of_bytes(text: str) -> list[int]:
    """Returns the index of the character that each byte of UTF-8 is in. "aé" gives 0 1 1."""
    return [index for index, char in enumerate(text) for _ in char.encode()]


def from_sentencepiece(
    text: str, serialize: Callable[[str], bytes], mark_ids: Sequence[int]
) -> Offsets:
    """Encodes with SentencePiece.

    Args:
      text: to encode.
      serialize: a text -> its SentencePieceText.
      mark_ids: what a U+2581 in the text is encoded as, beside the library.
    """

    ids, tokens, ranges, start = [], [], [], 0
    for part in re.split(f"({SPACE_MARK})", text):
        if part == SPACE_MARK:
            ids += mark_ids
            tokens += [""] * len(mark_ids)
            ranges += [(start, start + 1)] * len(mark_ids)
        else:
            pieces = sentencepiece_proto.SentencePieceText.FromString(serialize(part)).pieces
            ids += [piece.id for piece in pieces]
            tokens += [piece.piece for piece in pieces]
            ranges += [(start + first, start + end) for first, end in _of_pieces(part, pieces)]
        start += len(part)
    return from_ranges(ids, _mend(text, tokens, ranges))


def _of_pieces(text: str, pieces: Sequence[Any]) -> list[Range]:
    """Returns ranges in characters, from those of SentencePiece, which are in bytes."""
    character = [*characters_of_bytes(text), len(text)]
    ranges, end = [], len(character) - 1
    # Of the parts of one character, the last alone has its range; the others are empty, at its
    # start.
    for piece in reversed(pieces):
        if piece.begin < piece.end:
            end = piece.end
        ranges.append((character[piece.begin], character[end]))
    return ranges[::-1]


def from_hugging_face(
    text: str, ids: Sequence[int], tokens: Sequence[str], ranges: Sequence[Range]
) -> Offsets:
    """Makes offsets from an Encoding of `tokenizers` whose ranges no post-processor trimmed."""
    return from_ranges(ids, _split_bytes(text, tokens, _mend(text, tokens, ranges)))


def _mend(text: str, tokens: Sequence[str], ranges: Sequence[Range]) -> list[Range]:
    """Gives dropped characters to tokens, and takes them from spaces that were added."""
    ranges = _give_dropped(text, ranges)
    for j in range(len(tokens) - 1):
        if tokens[j] in (SPACE_MARK, _BYTE_SPACE) and ranges[j][0] == ranges[j + 1][0]:
            ranges[j] = (ranges[j][0], ranges[j][0])  # The library gave it the next one's range.
    return ranges


def _give_dropped(text: str, ranges: Sequence[Range]) -> list[Range]:
    """Gives each character without a token to one that it touches: before it, or else behind."""
    ranges_L2 = np.array(ranges, np.int64).reshape(-1, 2)
    starts_L, ends_L = ranges_L2[:, 0], ranges_L2[:, 1]  # Views.
    size = len(text) + 1
    # How many tokens hold each character: +1 where one starts, -1 where it ends.
    num_begun, num_ended = (np.bincount(x, minlength=size) for x in (starts_L, ends_L))
    free = np.flatnonzero(np.cumsum(num_begun - num_ended)[:-1] == 0)
    free_at = np.array([i for i in free if not text[i].isspace()], int)
    if not len(free_at):
        return list(ranges)
    for run in np.split(free_at, np.flatnonzero(np.diff(free_at) > 1) + 1):
        if run[0] in ends_L:
            ends_L[ends_L == run[0]] = run[-1] + 1
        else:
            starts_L[starts_L == run[-1] + 1] = run[0]
    return [(start, end) for start, end in ranges_L2.tolist()]


def _split_bytes(text: str, tokens: Sequence[str], ranges: Sequence[Range]) -> list[Range]:
    """Tells apart the bytes of unknown characters in a row, which all have the range of the row."""
    if not any(token.startswith("<0x") for token in tokens):
        return list(ranges)
    split = []
    of_range = itertools.groupby(zip(ranges, tokens, strict=True), key=lambda pair: pair[0])
    for (start, end), run in of_range:
        names = [token for _, token in run]
        if names == [f"<0x{byte:02X}>" for byte in text[start:end].encode()]:
            split += [(start + i, start + i + 1) for i in characters_of_bytes(text[start:end])]
        else:
            split += [(start, end)] * len(names)
    return split
