"""Sees, and replaces, what stands at named sites of a model, without a word of it in the model.

A site is what goes into a module, or comes out of it: `layers.in` is the residual stream before
each block and `layers.out` behind it, `layers/attention/out.in` what each head wrote,
`layers/attention/probs.out` the attention probabilities, `embedding.out` the embedded tokens. The
names are the paths of modules, which are the same in all families (`lm.models.sites` has those of
identities); a task model has those of its body below `body`. Arrays of layers are stacked along a
first dimension, however the layers are computed. An identity has one site, its `.out`.

Dimension key:
  N layers    B batch    L length    H heads    M key length    D model width
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.models.parameters import Params
from lm.models.sites import Site

Model = TypeVar("Model", bound=nn.Module)
Method = str | Callable[..., Any]  # Of a model, as `nn.Module.apply` takes it.

# Names of collections of variables; `lm.models.stack` knows them by the same.
_SEEN = "intermediates"
_PATCHES = "patches"


@struct.dataclass
class Patch:
    """Changes what passes a site to `where(mask, value, x) + delta`.

    Each is an array that broadcasts against the site's, or a number. Replacing is a mask with a
    value, ablation one with 0 or with a mean, steering a delta; the gradient by a delta of zeros is
    that by what stands at the site.
    """

    mask: jax.Array | bool = False
    value: jax.Array | float = 0.0
    delta: jax.Array | float = 0.0


def observable(model: Model) -> tuple[Model, str]:
    """Gives attention that keeps its probabilities to a model of any family, or of a task.

    Returns:
      The model, which takes the same parameters, and a line about the kernel that gave way; "" if
      none did.
    """
    body = getattr(model, "body", None)
    if body is not None:
        seen, line = observable(body)
        return model.clone(body=seen), line
    config = model.config
    if config.attention == "einsum":
        return model, ""
    line = f"attention by einsum in place of {config.attention}, which keeps no probabilities"
    return model.clone(config=dataclasses.replace(config, attention="einsum")), line


def observe(
    model: nn.Module,
    params: Params,
    *inputs: Any,
    keep: Collection[str] = (),
    patches: Mapping[str, Patch] | None = None,
    method: Method = "__call__",
    **more: Any,
) -> tuple[Any, dict[str, jax.Array]]:
    """Runs a method of a model, keeps what stands at sites, and replaces it where patches say so.

    A site that is patched is kept as the patch leaves it. Traceable: under `jax.jit`, `jax.grad`
    by a delta, and `jax.vmap` over patches.

    Args:
      model: of any family or task; see `observable` for attention probabilities.
      params: its parameters.
      *inputs, **more: what the method takes.
      keep: names of sites.
      patches: by the names of sites.
      method: of the model.

    Returns:
      What the method returns, and arrays by the names of sites.

    Raises:
      UserError: a site that does not exist, or a patch that does not fit its site.
    """
    shapes = sites(model, params, *inputs, method=method, **more)
    for name in (*keep, *(patches or {})):
        check_site(name, shapes)
    of_patches = {
        _path(name): _fitted(name, patch, shapes[name]) for name, patch in (patches or {}).items()
    }
    variables = {"params": params} | ({_PATCHES: unflatten_dict(of_patches)} if of_patches else {})
    with nn.intercept_methods(_interceptor(frozenset(map(_path, keep)))):
        output, seen = model.apply(variables, *inputs, method=method, mutable=[_SEEN], **more)
    return output, {name: _at(seen, name) for name in keep}


def sites(
    model: nn.Module, params: Params, *inputs: Any, method: Method = "__call__", **more: Any
) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists the sites that a method of a model passes, with their shapes, in alphabetical order.

    Takes what `observe` does, arrays or their shapes; computes nothing.
    """
    # What is static, such as `deterministic`, stays outside of the trace.
    is_traced = lambda x: bool(jax.tree.leaves(x)) and not isinstance(x, bool | int | str)
    traced = {name: x for name, x in more.items() if is_traced(x)}
    static = tuple((name, x) for name, x in more.items() if name not in traced)
    found = flatten_dict(_all_seen.eval_shape(model, method, static, params, inputs, traced))
    return {_name(path): found[path] for path in sorted(found)}


# Compiled never; for its shapes alone, of which JAX remembers what it has traced.
@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _all_seen(model, method, static, params, inputs, traced):
    with nn.intercept_methods(_interceptor(None)):
        settings = dict(method=method, mutable=[_SEEN]) | dict(static)
        _, seen = model.apply({"params": params}, *inputs, **settings, **traced)
    return seen.get(_SEEN, {})


def check_site(name: str, known: Collection[str]) -> None:
    """Raises UserError for a name that is no site, with the nearest that is one."""
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
        hint = f"; the nearest is {nearest[0]}" if nearest else ""
        raise UserError(f"there is no site {name!r}{hint}; what=sites lists all")


def num_bytes(shapes: Collection[jax.ShapeDtypeStruct]) -> int:
    """Returns how many bytes arrays of these shapes take."""
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in shapes)


def _interceptor(kept: Collection[tuple[str, ...]] | None):
    """Makes what stands between each call of a module and the module; None keeps all sites."""

    def intercept(call, args, kwargs, context):
        module = context.module
        # A module without a name is the model itself, or shares the variables of another.
        is_named = context.method_name == "__call__" and module.path
        if not is_named or isinstance(module, nn.Dropout):
            return call(*args, **kwargs)
        through = lambda x, end: _through(module, x, end, kept)
        if args and not isinstance(module, Site):
            args = (through(args[0], "@in"), *args[1:])
        return through(call(*args, **kwargs), "@out")

    return intercept


def _through(module: nn.Module, x: Any, end: str, kept: Collection[tuple[str, ...]] | None) -> Any:
    if not isinstance(x, jax.Array):
        return x
    if module.has_variable(_PATCHES, end):
        patch = module.get_variable(_PATCHES, end)
        x = jnp.where(patch.mask, patch.value.astype(x.dtype), x) + patch.delta.astype(x.dtype)
    if kept is None or (*module.path, end) in kept:
        module.sow(_SEEN, end, x, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return x


def _fitted(name: str, patch: Patch, shape: jax.ShapeDtypeStruct) -> Patch:
    """Gives the arrays of a patch the dimension of layers, which is cut before they are used."""

    def fit(x):
        x = jnp.asarray(x)
        sizes = zip(x.shape[::-1], shape.shape[::-1], strict=False)
        # One that broadcasting would let grow the site's array does not fit, either.
        if x.ndim > len(shape.shape) or any(n not in (1, wanted) for n, wanted in sizes):
            raise UserError(
                f"a patch of shape {x.shape} does not fit {name}, which is {shape.shape}"
            )
        x = x.reshape((1,) * (len(shape.shape) - x.ndim) + x.shape)
        return jnp.broadcast_to(x, (shape.shape[0], *x.shape[1:]))

    return jax.tree.map(fit, patch)


def _path(name: str) -> tuple[str, ...]:
    path, _, end = name.rpartition(".")
    return (*path.split("/"), f"@{end}")  # With what no submodule has in its name.


def _name(path: tuple[str, ...]) -> str:
    return "/".join(path[:-1]) + "." + path[-1].removeprefix("@")


def _at(seen: Mapping, name: str) -> jax.Array:
    return flatten_dict(seen[_SEEN])[_path(name)]
