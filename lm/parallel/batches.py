"""Where batches live: from arrays of NumPy to the mesh, and back."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.models.parameters import Params
from lm.parallel.mesh import num_batch_shards, process_shard


def batch_spec(x: Any, mesh: Mesh) -> P:
    """How an array of a batch is cut: rows over all that copies or gathers parameters, and what
    they are made of over `sequence`, where that divides it."""
    rows = ("data", "fsdp")
    if len(x.shape) > 1 and x.shape[1] % mesh.shape["sequence"] == 0:
        return P(rows, "sequence")
    return P(rows)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's part of a batch, as arrays of NumPy -> the global batch on the mesh."""
    shard, num_shards = process_shard(mesh)

    def place(x: np.ndarray) -> jax.Array:
        shape = (x.shape[0] * num_shards, *x.shape[1:])
        first = shard * x.shape[0]

        def read(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return x[(slice(start - first, stop - first), *index[1:])]

        sharding = NamedSharding(mesh, batch_spec(x, mesh))
        return jax.make_array_from_callback(shape, sharding, read)

    return jax.tree.map(place, batch)


def shard_like(params: Params, rows: Any) -> Any:
    """Arrays of NumPy -> the same on the mesh that cuts `params`, each device with rows of its own.

    What cannot be divided is whole on every device; beside parameters of no mesh, nothing changes.
    """
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return rows
    mesh = sharding.mesh

    def place(x: np.ndarray) -> jax.Array:
        divides = x.shape[0] % num_batch_shards(mesh) == 0
        spec = P(("data", "fsdp")) if divides else P()
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda at: x[at])

    return jax.tree.map(place, rows)


def to_host(arrays: Any) -> Any:
    """Arrays of any mesh -> arrays of NumPy, whole and alike in every process."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
