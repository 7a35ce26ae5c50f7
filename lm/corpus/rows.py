"""Rows of packed tokens: what every objective starts from.

Dimension key: B batch, L length.
"""

from collections.abc import Sequence

import jax
import numpy as np
from flax import struct

from lm.corpus.packing import NO_NEXT, Piece


@struct.dataclass
class Rows:
    """Packed rows. Every field is int32, and all but the last B x L.

    Two documents, `<s>ab</s>` and `<s>cde</s>`, the second of which goes on in another row:

        tokens_BL       <s>  a    b    </s>  <s>  c   pad
        next_BL         a    b    </s> -1    c    d   -1
        segment_ids_BL  1    1    1    1     2    2   0
        positions_BL    0    1    2    3     0    1   0

    `next_BL` is the token that follows in the same document, also where that stands in another row;
    -1 where the document ends, and in padding. Segment 0 is padding, whatever token stands there.
    `ids_B` is the number of the row in its split, by which random choices are made.
    """

    tokens_BL: np.ndarray
    next_BL: np.ndarray
    segment_ids_BL: np.ndarray
    positions_BL: np.ndarray
    ids_B: np.ndarray


def rows_from_pieces(
    rows: Sequence[Sequence[Piece]], seq_len: int, pad_id: int, ids: Sequence[int]
) -> Rows:
    """Lays pieces out in B x L arrays, one row each; a row without pieces is all padding."""
    tokens_BL = np.full((len(rows), seq_len), pad_id, np.int32)
    next_BL = np.full((len(rows), seq_len), NO_NEXT, np.int32)
    segment_ids_BL = np.zeros((len(rows), seq_len), np.int32)
    positions_BL = np.zeros((len(rows), seq_len), np.int32)
    for b, row in enumerate(rows):
        start = 0
        for segment, (tokens, next_token) in enumerate(row, start=1):
            end = start + len(tokens)
            tokens_BL[b, start:end] = tokens
            # Within a piece the next token stands in it; behind its last, it was stored for this.
            next_BL[b, start : end - 1] = tokens[1:]
            next_BL[b, end - 1] = next_token
            segment_ids_BL[b, start:end] = segment
            positions_BL[b, start:end] = np.arange(len(tokens))  # From 0 in each piece.
            start = end
    ids_B = np.asarray(ids, np.int32)
    return Rows(tokens_BL, next_BL, segment_ids_BL, positions_BL, ids_B)


def abstract_rows(batch_size: int, seq_len: int) -> Rows:
    """Describes the shapes and dtypes of a batch, without any array."""
    shape = jax.ShapeDtypeStruct((batch_size, seq_len), np.int32)
    return Rows(shape, shape, shape, shape, jax.ShapeDtypeStruct((batch_size,), np.int32))
