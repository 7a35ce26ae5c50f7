"""Shards parameters by one table of rules from a path to the axes that cut its dimensions.

The model never mentions a device; this folder does.

Dimension key:
  V vocabulary   D model width   H heads   G key/value heads   K head width   F MLP width
  P positions or token types   R buckets of relative positions   S labels or other outputs
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jax.tree_util import tree_map_with_path

from lm.errors import UserError
from lm.models.parameters import Params, kernel_dims
from lm.models.sites import Site
from lm.parallel.mesh import num_batch_shards

Path = tuple[str, ...]

# The end of a parameter's path, its dimensions, and the axis of the mesh that cuts each. Under
# "layers" a first dimension, which counts them, is never cut: the scan over layers reads a slice of
# it at a time. H and F on `tensor`, as columns and then as rows, leave one all-reduce for each
# attention and MLP (Shoeybi et al. 2019, section 3).
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


def params_sharding(params: Params, mesh: Mesh) -> Any:
    """Returns the sharding of each parameter, or adapter of one; shapes are enough.

    Raises UserError where no rule covers a parameter, or the mesh cannot divide it.
    """
    return tree_map_with_path(
        lambda path, x: NamedSharding(mesh, _spec(path_names(path), x.shape, mesh)), params
    )


def place_params(params: Params, mesh: Mesh) -> Params:
    """Cuts parameters over the mesh, as `params_sharding` says."""
    shardings = params_sharding(params, mesh)
    if jax.process_count() == 1:
        return jax.device_put(params, shardings)
    # Every process has all of them and hands over its own parts, so that nothing is sent.
    place = lambda x, s: jax.make_array_from_callback(x.shape, s, lambda at: x[at])
    return jax.tree.map(place, jax.device_get(params), shardings)


def path_names(path: tuple) -> Path:
    """Returns the names in a path of `jax.tree_util`, as `flatten_dict` has them."""
    return tuple(jax.tree_util.keystr((key,), simple=True) for key in path)


def _spec(path: Path, shape: tuple[int, ...], mesh: Mesh) -> P:
    if path[-1] in ("a", "b", "magnitude_scale"):  # Of an adapter; see `lm.models.lora`.
        rule = _rule(path[:-1])
        inputs = kernel_dims(path[:-1], len(rule) + ("layers" in path)).inputs
        rank = ("r", None)  # Never cut: it is smaller than any axis is worth.
        # A (in x r) and B (r x out) are cut like the kernel (in x out), so that adding is local.
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
    """Returns the name and the axis of each dimension, but for that of the layers."""
    name = "/".join(path)
    for ending, rule in _RULES.items():
        if re.search(f"{ending}$", name):
            dims = [dim.partition(":") for dim in rule.split()]
            return [(dim, axis or None) for dim, _, axis in dims]
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


def constrain_batch_sharding(apply: Callable, mesh: Mesh) -> Callable:
    """Wraps (params, ...) -> outputs, so that under `fsdp` each device computes its own rows.

    Under FSDP, XLA may shard activations along D like the weights, and then every device computes
    on the rows of all.
    """
    if mesh.shape["fsdp"] == 1:  # Nothing competes with the rows for that axis.
        return apply

    def gather(path: tuple, x: jax.Array) -> jax.Array:
        names = path_names(path)
        if "layers" in names:  # Gathered one by one inside the loop, and let go of after it.
            return x
        # Without fsdp: an all-gather before the forward pass, a reduce-scatter of the gradient.
        spec = P(*(None if axis == "fsdp" else axis for axis in _spec(names, x.shape, mesh)))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def keep(x: Any) -> Any:
        if np.ndim(x) < 3 or x.shape[0] % num_batch_shards(mesh):
            return x  # No activation of B x L x D, or not of rows that shards divide.
        # Rows by shards, and all else as XLA likes, which `tensor` and `sequence` may cut.
        spec = P(("data", "fsdp"), *[P.UNCONSTRAINED] * (x.ndim - 1))
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def intercept(method, args, kwargs, context):
        outputs = method(*args, **kwargs)
        return outputs if isinstance(context.module, Site) else jax.tree.map(keep, outputs)

    def applied(params, *args):
        with nn.intercept_methods(intercept):
            return apply(tree_map_with_path(gather, params), *args)

    return applied
