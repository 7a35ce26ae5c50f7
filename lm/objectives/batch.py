"""What an objective makes of rows: what a model reads, and what it must say."""

from collections.abc import Callable

import jax
from flax import struct

from lm.corpus.rows import Rows


@struct.dataclass
class Batch:
    """One batch.

    inputs: keyword arguments of the model, arrays with a leading batch axis.
    targets_BL: token ids, int32, one for each position whose logits the model gives.
    weights_BL: float32; 0 where nothing is to be predicted.
    """

    inputs: dict[str, jax.Array]
    targets_BL: jax.Array
    weights_BL: jax.Array


def row_keys(key: jax.Array, ids_B: jax.Array) -> jax.Array:
    """A key for each row: the same whatever batch, micro-batch or host the row is in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids_B)


Objective = Callable[[Rows, jax.Array], Batch]
