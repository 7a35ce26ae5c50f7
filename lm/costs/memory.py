"""Counts from shapes alone what a train step will hold in memory."""

import math
from collections.abc import Callable
from typing import Any

import jax

from lm.models.parameters import Params


def tree_bytes(tree: Any) -> int:
    """Returns the bytes a device holds of a tree of shapes; all of them without a sharding."""
    shape_of = lambda x: x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
    return sum(math.prod(shape_of(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def saved_activation_bytes(
    loss: Callable[[Params, Any], jax.Array], params: Params, batch: Any
) -> int:
    """Returns the bytes that the forward pass keeps for the backward pass, rematerialised or not.

    XLA may fuse some away, so the true peak lies lower, or somewhat higher where it needs scratch
    space.

    Args:
      loss: (params, batch) -> scalar.
      params, batch: shapes are enough.
    """

    def residuals(params, batch):
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, batch), params)[1])

    jaxpr = jax.make_jaxpr(residuals)(params, batch).jaxpr
    # Without residuals that are the parameters or the batch themselves, which are there anyway, and
    # without literals. A set, since one array may be kept for several uses.
    kept = {v for v in jaxpr.outvars if isinstance(v, type(jaxpr.invars[0]))} - {*jaxpr.invars}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in kept)
