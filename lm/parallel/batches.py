"""Brings batches from arrays of NumPy to the mesh, and back."""

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.models.parameters import Params
from lm.parallel.mesh import num_batch_shards, process_shard


def batch_spec(x: Any, mesh: Mesh) -> P:
    """Returns how an array of a batch is cut: rows over data x fsdp, lengths over `sequence`."""
    rows = ("data", "fsdp")  # Each FSDP shard has rows of its own, as a copy of all would.
    if len(x.shape) > 1 and x.shape[1] % mesh.shape["sequence"] == 0:
        return P(rows, "sequence")
    return P(rows)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """Makes the global batch on the mesh from this process's part, in arrays of NumPy."""
    shard, num_shards = process_shard(mesh)

    def place(x: np.ndarray) -> jax.Array:
        shape = (x.shape[0] * num_shards, *x.shape[1:])
        first = shard * x.shape[0]  # The global number of this process's row 0.

        def read(index: tuple[slice, ...]) -> np.ndarray:
            # JAX asks for global rows, and only for those of this process's own devices.
            start, stop, _ = index[0].indices(shape[0])
            return x[(slice(start - first, stop - first), *index[1:])]

        sharding = NamedSharding(mesh, batch_spec(x, mesh))
        return jax.make_array_from_callback(shape, sharding, read)

    return jax.tree.map(place, batch)


def shard_like(params: Params, rows: Any) -> Any:
    """Places arrays of NumPy on the mesh that cuts `params`, each device with rows of its own."""
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):  # Parameters of no mesh: nothing to place by.
        return rows
    mesh = sharding.mesh

    def place(x: np.ndarray) -> jax.Array:
        divides = x.shape[0] % num_batch_shards(mesh) == 0
        spec = P(("data", "fsdp")) if divides else P()  # Else whole on every device.
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda at: x[at])

    return jax.tree.map(place, rows)


def to_host(arrays: Any) -> Any:
    """Brings arrays of any mesh to NumPy, whole and alike in every process."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
