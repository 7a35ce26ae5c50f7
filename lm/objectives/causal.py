"""Objectives of decoders: every token predicts the one that follows it in its own document.

Dimension key: B batch, L length.
"""

import jax
import jax.numpy as jnp

from lm.corpus.rows import Rows
from lm.objectives.batch import Batch, row_keys


def causal(rows: Rows, key: jax.Array) -> Batch:
    """Every token sees what precedes it.

    A literal row of two documents, `<s>ab</s>` and `<s>c`, the second of which goes on in another
    row:

        tokens      <s>  a    b    </s>  <s>  c    pad
        segments    1    1    1    1     2    2    0
        targets     a    b    </s> -     c    d    -
        weights     1    1    1    0     1    1    0
    """
    del key
    inputs = {
        "tokens_BL": rows.tokens_BL,
        "positions_BL": rows.positions_BL,
        "segment_ids_BL": rows.segment_ids_BL,
    }
    weights_BL = (rows.next_BL >= 0).astype(jnp.float32)
    return Batch(inputs, jnp.maximum(rows.next_BL, 0), weights_BL)


def prefix(rows: Rows, key: jax.Array, *, suffix_share: float) -> Batch:
    """A prefix of each document is seen by all of it (Raffel et al. 2020, section 3.2.1).

    Only what follows it is predicted: a share of the document that is drawn between 0 and twice
    `suffix_share`; 0.5 gives every share alike. The document above with one token in its prefix,
    which is seen by `<s>` too:

        tokens      <s>  a    b    </s>
        prefix      yes  yes  no   no
        targets     -    b    </s> -
        weights     0    1    1    0
    """
    batch = causal(rows, key)

    def pivots(key, segment_ids_L, positions_L):
        L = segment_ids_L.shape[0]
        # Segments count from 0, the padding, to at most L; positions from 0 in each of them.
        length_L = jax.ops.segment_max(positions_L, segment_ids_L, L + 1)[segment_ids_L] + 1
        share_L = 2 * suffix_share * jax.random.uniform(key, (L + 1,))[segment_ids_L]
        return positions_L < jnp.floor((1 - share_L) * length_L)

    keys_B = row_keys(key, rows.ids_B)
    prefix_BL = jax.vmap(pivots)(keys_B, rows.segment_ids_BL, rows.positions_BL)
    # The last token of the prefix predicts the first one behind it; what is in the prefix of the
    # next document does not count.
    next_of = lambda x_BL: jnp.pad(x_BL[:, 1:], ((0, 0), (0, 1)))
    same_BL = next_of(rows.segment_ids_BL) == rows.segment_ids_BL
    weights_BL = batch.weights_BL * ~(next_of(prefix_BL) & same_BL)
    return Batch(batch.inputs | {"prefix_BL": prefix_BL}, batch.targets_BL, weights_BL)
