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
    """Gives each row to one of the objectives, drawn in proportion to `weights`.

    Their inputs, targets and weights must have the same shapes.
    """
    # All compute all rows: shapes are static, and an objective costs little beside a step.
    choose_key, *keys = jax.random.split(key, len(objectives) + 1)
    batches = [objective(rows, k) for objective, k in zip(objectives, keys, strict=True)]
    logits = jnp.log(jnp.asarray(weights, jnp.float32))
    draw = lambda key: jax.random.categorical(key, logits)
    choice_B = jax.vmap(draw)(row_keys(choose_key, rows.ids_B))

    def pick(*options):
        picked = options[0]
        for i, option in enumerate(options[1:], start=1):
            here = (choice_B == i).reshape(-1, *[1] * (option.ndim - 1))
            picked = jnp.where(here, option, picked)
        return picked

    return jax.tree.map(pick, *batches)
