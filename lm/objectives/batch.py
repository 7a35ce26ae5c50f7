"""The batch that an objective makes of rows."""

from collections.abc import Callable

import jax
from flax import struct

from lm.corpus.rows import Rows


@struct.dataclass
class Batch:
    """What a model reads, and what it must say; L are the positions whose logits it gives."""

    inputs: dict[str, jax.Array]  # Keyword arguments of the model, all with a leading batch axis.
    targets_BL: jax.Array  # Token ids, int32.
    weights_BL: jax.Array  # Float32; 0 where nothing is to be predicted.


def row_keys(key: jax.Array, ids_B: jax.Array) -> jax.Array:
    """Makes a key for each row: the same whatever batch, micro-batch or host the row is in."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, ids_B)


Objective = Callable[[Rows, jax.Array], Batch]
