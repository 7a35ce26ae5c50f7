"""Objectives: pure functions from rows of tokens to what a model reads and what it must predict."""

import jax
import jax.numpy as jnp
from flax import struct

from lm.data.rows import Rows


@struct.dataclass
class Batch:
    """One batch for a decoder. Every field is B x L; weights are float32, the others int32."""

    tokens_BL: jax.Array
    positions_BL: jax.Array
    segment_ids_BL: jax.Array
    targets_BL: jax.Array
    weights_BL: jax.Array


def causal(rows: Rows) -> Batch:
    """Every token predicts the one that follows it in its own document.

    A literal row of two documents, `<s>ab</s>` and `<s>c`, the second of which goes on in another
    row:

        tokens      <s>  a    b    </s>  <s>  c    pad
        segments    1    1    1    1     2    2    0
        targets     a    b    </s> -     c    d    -
        weights     1    1    1    0     1    1    0
    """
    has_next_BL = rows.next_BL >= 0
    return Batch(
        tokens_BL=rows.tokens_BL,
        positions_BL=rows.positions_BL,
        segment_ids_BL=rows.segment_ids_BL,
        targets_BL=jnp.maximum(rows.next_BL, 0),
        weights_BL=has_next_BL.astype(jnp.float32),
    )
