"""A mixture of objectives, as in UL2 (Tay et al. 2023, section 3.1.2).

Dimension key: B batch.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from lm.corpus.rows import Rows
from lm.objectives.batch import Batch, row_keys


def mixture(
    rows: Rows,
    key: jax.Array,
    *,
    objectives: Sequence[Callable[[Rows, jax.Array], Batch]],
    weights: Sequence[float],
) -> Batch:
    """Each row is dealt with by one of the objectives, drawn by their weights.

    Args:
      rows: packed rows.
      key: of the step.
      objectives: give inputs, targets and weights of the same shapes.
      weights: in proportion to which rows are dealt out.
    """
    choose_key, *keys = jax.random.split(key, len(objectives) + 1)
    batches = [objective(rows, k) for objective, k in zip(objectives, keys, strict=True)]
    logits = jnp.log(jnp.asarray(weights, jnp.float32))
    draw = lambda key: jax.random.categorical(key, logits)
    choice_B = jax.vmap(draw)(row_keys(choose_key, rows.ids_B))

    def pick(*options):
        here = lambda x, i: (choice_B == i).reshape(-1, *[1] * (x.ndim - 1))
        picked = options[0]
        for i, option in enumerate(options[1:], start=1):
            picked = jnp.where(here(option, i), option, picked)
        return picked

    return jax.tree.map(pick, *batches)
