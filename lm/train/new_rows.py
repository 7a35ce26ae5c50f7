"""Trains the rows of new tokens alone; all else stays as it is to the bit."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lm.models.parameters import TABLES, Params
from lm.train.step import LossFn


def trained_rows(num_old: int) -> Callable[[Params], Params]:
    """Makes the function from parameters to what of each is trained: booleans that broadcast.

    Of tables of the vocabulary, the rows behind the first `num_old`; of all else nothing.
    """

    def of(path, x):
        if path[-1].key not in TABLES:
            return jnp.zeros((1,) * x.ndim, bool)
        return (jnp.arange(x.shape[0]) >= num_old).reshape(-1, *[1] * (x.ndim - 1))

    return lambda params: jax.tree_util.tree_map_with_path(of, params)


def with_gradients_of(trained: Callable[[Params], Params], loss_fn: LossFn) -> LossFn:
    """Gives a loss the gradients of what is trained alone, so that no others are computed."""

    def loss(params, batch, key):
        hold = lambda x, is_trained: jnp.where(is_trained, x, jax.lax.stop_gradient(x))
        return loss_fn(jax.tree.map(hold, params, trained(params)), batch, key)

    return loss
