"""What a train step will hold in memory, counted from shapes alone."""

import math
from collections.abc import Callable
from typing import Any

import jax

from lm.models.parameters import Params


def tree_bytes(tree: Any) -> int:
    """Bytes a device holds of a tree of shapes; all of it, where they carry no shardings."""

    def leaf_bytes(x):
        shape = x.shape if x.sharding is None else x.sharding.shard_shape(x.shape)
        return math.prod(shape) * x.dtype.itemsize

    return sum(leaf_bytes(x) for x in jax.tree.leaves(tree))


def saved_activation_bytes(
    loss: Callable[[Params, Any], jax.Array], params: Params, batch: Any
) -> int:
    """Bytes that the forward pass keeps for the backward pass, under whatever rematerialisation.

    These are the residuals of `jax.vjp`, without those that are the parameters or the batch
    themselves. XLA may fuse some away, so the true peak lies lower, or somewhat higher where it
    needs scratch space.

    Args:
      loss: (params, batch) -> scalar.
      params, batch: shapes are enough.
    """

    def residuals(params, batch):
        return jax.tree.leaves(jax.vjp(lambda p: loss(p, batch), params)[1])

    jaxpr = jax.make_jaxpr(residuals)(params, batch).jaxpr
    kept = {v for v in jaxpr.outvars if isinstance(v, type(jaxpr.invars[0]))} - {*jaxpr.invars}
    return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in kept)
