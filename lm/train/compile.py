"""Compiles a step into the program that all devices run, and says where its states lie."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import Mesh
from jax.tree_util import tree_flatten_with_path, tree_map_with_path

from lm.parallel.batches import place_batch
from lm.parallel.mesh import replicated, with_mesh
from lm.parallel.param_rules import params_sharding, path_names
from lm.train.step import TrainState


def state_sharding(state: TrainState, mesh: Mesh) -> TrainState:
    """Says how a state is cut: an optimiser's copies of a parameter like that parameter.

    All else, such as counts, is whole on every device. Raises UserError as `params_sharding` does.
    """
    params = params_sharding(state.params, mesh)
    flat = zip(tree_flatten_with_path(state.params)[0], jax.tree.leaves(params), strict=True)
    known = {path_names(path): (x.shape, sharding) for (path, x), sharding in flat}

    def follow(path, x):
        names = path_names(path)
        # The path of a moment ends in that of its parameter: (0, "mu", "layers", "mlp", ...). The
        # shape decides too, since Adafactor's factored moments lack a dimension.
        for first in range(len(names)):
            shape, sharding = known.get(names[first:], (None, None))
            if shape == x.shape:
                return sharding
        return replicated(mesh)

    return TrainState(replicated(mesh), params, tree_map_with_path(follow, state.opt_state))


def compile_step(
    step: Callable, strategy: str, mesh: Mesh, shardings: TrainState
) -> tuple[Callable, Callable[[Any], Any]]:
    """Compiles a step for all devices.

    Args:
      step: (state, batch, *, axis_name=None, ...) -> (state, metrics); see `lm.train.step`.
      strategy: "jit" compiles one program for the global batch; "pmap" one for a device's part of
        it, which adds up over `axis_name`. States and numbers are the same.
      mesh: see `make_mesh`.
      shardings: of the state.

    Returns:
      The compiled step, which takes all but state and batch by name and donates the state, and
      place(this process's shard of a batch, in NumPy) -> the batch as that step takes it.
    """
    if strategy == "jit":
        # Donation lets XLA write the new state into the old one's memory, which must lie alike.
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        compiled = jitted if mesh.size == 1 else with_mesh(jitted)
        return compiled, functools.partial(place_batch, mesh=mesh)

    @functools.partial(
        jax.pmap,
        axis_name="devices",
        in_axes=(None, 0, None),
        out_axes=None,
        devices=mesh.devices.flat,
        donate_argnums=0,
    )
    def mapped(state, batch, more):
        with nn.intercept_methods(_drop_out_by_global_rows):
            return step(state, batch, **more, axis_name="devices")

    # It gives arrays of a mesh of its own, which nothing else can join with arrays of this one.
    # Where the buffers lie is the same, so that this copies nothing.
    in_this_mesh = jax.jit(lambda state: state, out_shardings=shardings, donate_argnums=0)

    def compiled(state, batch, **more):
        state, metrics = mapped(state, batch, more)
        return in_this_mesh(state), metrics

    def place(batch):  # It stays on the host, from where `jax.pmap` sends each device its rows.
        return jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch)

    return compiled, place


def _drop_out_by_global_rows(method, args, kwargs, context):
    """Intercepts dropout under `jax.pmap`, so that it drops what it drops under `jit`."""
    module = context.module
    if not isinstance(module, nn.Dropout) or module.deterministic or not module.rate:
        return method(*args, **kwargs)
    (x,) = args
    num_rows, keep = x.shape[0], 1.0 - module.rate
    # One draw for the rows of all devices, from the same key on each; then this device's part.
    shape = (num_rows * jax.lax.axis_size("devices"), *x.shape[1:])
    kept = jax.random.bernoulli(module.make_rng(module.rng_collection), keep, shape)
    first = num_rows * jax.lax.axis_index("devices")
    kept = jax.lax.dynamic_slice_in_dim(kept, first, num_rows)
    return jnp.where(kept, x / keep, jnp.zeros_like(x))
