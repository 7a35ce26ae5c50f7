"""Where arrays live. The model never mentions a device; this file does.

Dimension key:
  V vocabulary   D model width   H heads   G key/value heads   K head width   F MLP width
  P positions or token types   R buckets of relative positions   S labels or other outputs
"""

import functools
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import tree_flatten_with_path, tree_map_with_path

from lm.errors import UserError
from lm.models.parameters import Params, kernel_dims
from lm.train.state import TrainState

Path = tuple[str, ...]

# The end of a parameter's path, its dimensions, and the axis of the mesh that cuts each. Under
# "layers" a first dimension, which counts them, is never cut.
_RULES = {
    "(token|output)_embedding": "V:tensor D:fsdp",
    "output_bias": "V:tensor",
    "(position|type)_embedding": "P D:fsdp",
    "relative_bias": "R H:tensor",
    "attention/query/kernel": "D:fsdp H:tensor K",
    "attention/(key|value)/kernel": "D:fsdp G:tensor K",
    "attention/out/kernel": "H:tensor K D:fsdp",
    "attention/query/bias": "H:tensor K",
    "attention/(key|value)/bias": "G:tensor K",
    "mlp/(in|gate)/kernel": "D:fsdp F:tensor",
    "mlp/out/kernel": "F:tensor D:fsdp",
    "mlp/in/bias": "F:tensor",
    "(pooler|transform)/kernel": "D:fsdp D",
    "head/kernel": "D:fsdp S",
    "(out|pooler|transform)/bias": "D",
    "head/bias": "S",
    "norm/(scale|bias)": "D",
    "crf/transition_bias": "S S",
    "crf/(start|end)_bias": "S",
}
_KEYS = {
    "V": "model.vocab_size",
    "D": "model.model_dim",
    "H": "model.num_heads",
    "G": "model.num_kv_heads (model.num_heads where there is none)",
    "F": "model.mlp_dim",
}


def make_mesh(
    *,
    strategy: str,
    data: int,
    fsdp: int,
    tensor: int,
    sequence: int,
    devices: Sequence[jax.Device] | int | None = None,
) -> Mesh | AbstractMesh:
    """Devices as a grid; one of its four sizes may be -1: what is left.

    XLA chooses the collectives (Auto axes), because under Explicit ones a token lookup in a sharded
    table must name its own output sharding.

    Args:
      strategy: "jit", or "pmap", which knows no axis but `data`.
      data: copies of the parameters, each for its own rows.
      fsdp: parts that each copy is cut into, gathered where they are used; each for its own rows.
      tensor: parts that heads, MLPs and the vocabulary are cut into.
      sequence: parts that rows are cut into.
      devices: None for all; a number gives a mesh of shapes alone, whose devices need not exist.

    Raises:
      UserError: a grid that the devices do not fill, or an unknown strategy.
    """
    num_devices = devices if isinstance(devices, int) else len(devices or jax.devices())
    given = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
    if strategy not in ("jit", "pmap"):
        raise UserError(f"parallel.strategy={strategy!r} is unknown; choose jit, pmap")
    sizes, asked = dict(given), [f"parallel.{a}={n}" for a, n in given.items() if n != 1]
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"{' and '.join(asked)}: only one axis can be what is left")
    if free:
        sizes[free[0]] = num_devices // max(1, -math.prod(sizes.values()))
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != num_devices:
        raise UserError(
            f"{' x '.join(asked) or 'parallel.data=1'} does not fill the {num_devices} devices "
            "here; set one axis to -1, which is what is left"
        )
    if strategy == "pmap" and jax.process_count() > 1:
        raise UserError("parallel.strategy=pmap is for one process; take parallel.strategy=jit")
    if strategy == "pmap" and sizes["data"] != num_devices:
        raise UserError(
            f"parallel.strategy=pmap copies the parameters to every device, and "
            f"{' x '.join(asked)} cuts them; take parallel.strategy=jit"
        )
    grid = tuple(sizes.values()), tuple(sizes)
    axis_types = (AxisType.Auto,) * len(sizes)
    if isinstance(devices, int):
        return AbstractMesh(*grid, axis_types=axis_types)
    return jax.make_mesh(*grid, axis_types=axis_types, devices=devices)


def params_sharding(params: Params, mesh: Mesh) -> Any:
    """How each parameter, or adapter of one, is cut; shapes are enough.

    Raises:
      UserError: no rule covers a parameter, or the mesh cannot divide it.
    """
    return tree_map_with_path(
        lambda path, x: NamedSharding(mesh, _spec(_names(path), x.shape, mesh)), params
    )


def place_params(params: Params, mesh: Mesh) -> Params:
    """Parameters -> the same, cut over the mesh.

    Raises:
      UserError: see `params_sharding`.
    """
    shardings = params_sharding(params, mesh)
    if jax.process_count() == 1:
        return jax.device_put(params, shardings)
    place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda at: x[at])
    return jax.tree.map(place, jax.device_get(params), shardings)


def state_sharding(state: TrainState, mesh: Mesh) -> TrainState:
    """How a state is cut: what the optimiser keeps of a parameter, in its shape, is cut as it is.

    All else, such as counts, is whole on every device.

    Raises:
      UserError: see `params_sharding`.
    """
    params = params_sharding(state.params, mesh)
    flat = zip(tree_flatten_with_path(state.params)[0], jax.tree.leaves(params), strict=True)
    known = {_names(path): (x.shape, sharding) for (path, x), sharding in flat}

    def follow(path, x):
        names = _names(path)
        for first in range(len(names)):
            shape, sharding = known.get(names[first:], (None, None))
            if shape == x.shape:
                return sharding
        return whole(mesh)

    return TrainState(whole(mesh), params, tree_map_with_path(follow, state.opt_state))


def whole(mesh: Mesh) -> NamedSharding:
    """All of an array on every device."""
    return NamedSharding(mesh, P())


def _names(path: tuple) -> Path:
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _spec(path: Path, shape: tuple[int, ...], mesh: Mesh) -> P:
    if path[-1] in ("a", "b", "magnitude_scale"):  # Of an adapter; see `lm.models.lora`.
        rule = _rule(path[:-1])
        inputs = kernel_dims(path[:-1], len(rule) + ("layers" in path)).inputs
        rank = ("r", None)
        rule = {"a": [*rule[:inputs], rank], "b": [rank, *rule[inputs:]]}.get(
            path[-1], rule[inputs:]
        )
    else:
        rule = _rule(path)
    if "layers" in path:
        rule = [("N", None), *rule]
    assert len(rule) == len(shape), (path, rule, shape)
    for (dim, axis), size in zip(rule, shape, strict=True):
        if axis is not None and size % mesh.shape[axis]:
            raise UserError(_indivisible(path, dim, size, axis, mesh.shape[axis]))
    return P(*(axis for _, axis in rule))


def _rule(path: Path) -> list[tuple[str, str | None]]:
    """The name and the axis of each dimension, but for that of the layers."""
    name = "/".join(path)
    for ending, rule in _RULES.items():
        if re.search(f"{ending}$", name):
            return [
                (dim, axis or None) for dim, _, axis in (d.partition(":") for d in rule.split())
            ]
    raise UserError(f"the parameter {name} has no rule that says how to cut it; see {__file__}")


def _indivisible(path: Path, dim: str, size: int, axis: str, parts: int) -> str:
    more = ""
    if dim == "V":
        padded = -(-size // parts) * parts
        more = (
            f"; model.vocab_size={padded} adds {padded - size} rows that no token uses, and "
            f"configs/convert.py with --config.vocab_size={padded} adds them to weights"
        )
    return (
        f"{_KEYS[dim]}={size} cannot be cut into parallel.{axis}={parts} equal parts, as "
        f"{'/'.join(path)} must be{more}"
    )


def by_rows(apply: Callable, mesh: Mesh) -> Callable:
    """(params, ...) -> what a model gives, computed by each device for its own rows under `fsdp`.

    The compiler cuts what no one tells it to cut as it finds best, and beside parameters that are
    cut along D it cuts activations along D too: then every device computes on the rows of all. So
    here parameters outside the layers are gathered first, and whatever a module gives keeps its
    cut by rows, for which the layers' parameters must be gathered one by one.
    """
    if mesh.shape["fsdp"] == 1:  # Nothing competes with the rows for that axis.
        return apply

    def gather(path: tuple, x: jax.Array) -> jax.Array:
        names = _names(path)
        if "layers" in names:
            return x
        spec = P(*(None if axis == "fsdp" else axis for axis in _spec(names, x.shape, mesh)))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def keep(x: Any) -> Any:
        if np.ndim(x) < 3 or x.shape[0] % num_row_parts(mesh):
            return x
        spec = P(("data", "fsdp"), *[P.UNCONSTRAINED] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(method, args, kwargs, context):
        del context
        return jax.tree.map(keep, method(*args, **kwargs))

    def applied(params, *args):
        with nn.intercept_methods(intercept):
            return apply(tree_map_with_path(gather, params), *args)

    return applied


# Batches ---------------------------------------------------------------------------------------


def compile_step(step: Callable, strategy: str, mesh: Mesh, shardings: TrainState) -> Callable:
    """Compiles a step for all devices. The state is donated; a batch is this process's part of it.

    Args:
      step: (state, batch, ..., axis_name=None) -> (state, metrics); see `lm.train.step`.
      strategy: "jit" compiles one program for the global batch; "pmap" one for a device's part of
        it, which adds up over `axis_name`. States and numbers are the same.
      mesh: see `make_mesh`.
      shardings: of the state.
    """
    if strategy == "jit":
        jitted = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))
        compiled = in_mesh(jitted)
        return lambda state, batch, *more: compiled(state, place_batch(batch, mesh), *more)

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
            return step(state, batch, *more, axis_name="devices")

    # It gives arrays of a mesh of its own, which nothing else can join with arrays of this one.
    # Where the buffers lie is the same, so that this copies nothing.
    in_this_mesh = jax.jit(lambda state: state, out_shardings=shardings, donate_argnums=0)
    split = lambda x: x.reshape(len(mesh.local_devices), -1, *x.shape[1:])

    def compiled(state, batch, *more):
        state, metrics = mapped(state, jax.tree.map(split, batch), more)
        return in_this_mesh(state), metrics

    return compiled


def _drop_out_by_global_rows(method, args, kwargs, context):
    """Under `jax.pmap`: drops what `jit` drops, by the part of one draw that is this device's."""
    module = context.module
    if not isinstance(module, nn.Dropout) or module.deterministic or not module.rate:
        return method(*args, **kwargs)
    (x,) = args
    num_rows, keep = x.shape[0], 1.0 - module.rate
    shape = (num_rows * jax.lax.axis_size("devices"), *x.shape[1:])
    kept = jax.random.bernoulli(module.make_rng(module.rng_collection), keep, shape)
    first = num_rows * jax.lax.axis_index("devices")
    kept = jax.lax.dynamic_slice_in_dim(kept, first, num_rows)
    return jnp.where(kept, x / keep, jnp.zeros_like(x))


def in_mesh(jitted: Callable) -> Callable:
    """The same function, which while it is traced knows the mesh that cuts its first argument.

    Kernels that XLA cannot divide need it to divide their own work; see `lm.models.kernels`.
    """

    @functools.wraps(jitted)
    def call(first, *rest, **more):
        sharding = getattr(jax.tree.leaves(first)[0], "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
            return jitted(first, *rest, **more)
        with jax.set_mesh(sharding.mesh):
            return jitted(first, *rest, **more)

    return call


def batch_spec(x: Any, mesh: Mesh) -> P:
    """How an array of a batch is cut: rows over all that copies or gathers parameters, and what
    they are made of over `sequence`, where that divides it."""
    rows = ("data", "fsdp")
    if len(x.shape) > 1 and x.shape[1] % mesh.shape["sequence"] == 0:
        return P(rows, "sequence")
    return P(rows)


def num_row_parts(mesh: Mesh) -> int:
    """How many parts the rows of a batch are cut into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def divisible(num_rows: int, mesh: Mesh) -> int:
    """The next number of rows that can be cut into parts: where more rows change no result."""
    parts = num_row_parts(mesh)
    return -(-num_rows // parts) * parts


def host_part(mesh: Mesh) -> tuple[int, int]:
    """The part of a batch's rows that this process reads, and how many there are of them.

    Raises:
      UserError: the processes cannot have parts of one size.
    """
    parts = num_row_parts(mesh)
    parts_of: dict[int, set[int]] = {}
    for part, devices in enumerate(mesh.devices.reshape(parts, -1)):
        for device in devices:
            parts_of.setdefault(device.process_index, set()).add(part)
    for theirs in parts_of.values():  # All of them, so that every process comes to one conclusion.
        first, count = min(theirs), len(theirs)
        if max(theirs) - first + 1 != count or parts % count or first % count:
            raise UserError(
                f"the rows of a batch, cut into parallel.data x parallel.fsdp = {parts} parts, "
                f"cannot be shared evenly by {len(parts_of)} processes; choose other sizes"
            )
    mine = parts_of[jax.process_index()]
    return min(mine) // len(mine), parts // len(mine)


def place_batch(batch: Any, mesh: Mesh) -> Any:
    """This process's part of a batch, as arrays of NumPy -> the global batch on the mesh."""
    shard, num_shards = host_part(mesh)

    def place(x: np.ndarray) -> jax.Array:
        shape = (x.shape[0] * num_shards, *x.shape[1:])
        first = shard * x.shape[0]

        def read(index: tuple[slice, ...]) -> np.ndarray:
            start, stop, _ = index[0].indices(shape[0])
            return x[(slice(start - first, stop - first), *index[1:])]

        sharding = NamedSharding(mesh, batch_spec(x, mesh))
        return jax.make_array_from_callback(shape, sharding, read)

    return jax.tree.map(place, batch)


def place_beside(params: Params, rows: Any) -> Any:
    """Arrays of NumPy -> the same on the mesh that cuts `params`, each device with rows of its own.

    What cannot be divided is whole on every device; beside parameters of no mesh, nothing changes.
    """
    sharding = getattr(jax.tree.leaves(params)[0], "sharding", None)
    if not isinstance(sharding, NamedSharding):
        return rows
    mesh = sharding.mesh

    def place(x: np.ndarray) -> jax.Array:
        divides = x.shape[0] % num_row_parts(mesh) == 0
        spec = P(("data", "fsdp")) if divides else P()
        return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda at: x[at])

    return jax.tree.map(place, rows)


def fetch(arrays: Any) -> Any:
    """Arrays of any mesh -> arrays of NumPy, whole and alike in every process."""
    if all(x.is_fully_addressable for x in jax.tree.leaves(arrays)):
        return jax.device_get(arrays)
    return multihost_utils.process_allgather(arrays, tiled=True)
