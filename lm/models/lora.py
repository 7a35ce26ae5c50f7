"""Low-rank adapters (Hu et al. 2021) as a pure function over the parameter tree.

No model knows of them: `merge` makes ordinary parameters of fixed ones and of adapters, and a
gradient with respect to the adapters flows through it. So whatever is trained, saved or counted is
the tree of adapters. It has the names of the parameters, with a dict in the place of each kernel:

    {"layers": {"attention": {"query": {"kernel": {"a": (N, D, r), "b": (N, r, H, K)}}}}}

and, with DoRA, "magnitude_scale", (N, H, K). Names that end in "scale" do not decay, others do: a
and b like the weights that they add up to, magnitudes like gains.

Dimension key: N layers, D model width, H heads, K head width, r rank.
"""

import dataclasses
import math
import re
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from lm.errors import UserError
from lm.models.parameters import Params, kernel_dims

Path = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which kernels are adapted, and how. No defaults: configs decide.

    rank: of what is added to a kernel.
    alpha: what is added is scaled by alpha / rank (Hu et al. 2021, section 4.1).
    targets: a regular expression, searched in the path of each parameter, as
      "attention/(query|value)/kernel" in "layers/attention/query/kernel".
    rank_stabilized: scales by alpha / sqrt(rank) (Kalajdzievski 2023, eq. 4).
    dora: learns the length of each output unit's weights apart from their direction (Liu et al.
      2024, eq. 5).
    """

    rank: int
    alpha: float
    targets: str
    rank_stabilized: bool
    dora: bool

    def __post_init__(self):
        if self.rank < 1:
            raise UserError(f"lora.rank={self.rank} must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise UserError(f"lora.alpha={self.alpha} must be more than 0, and finite")
        try:
            re.compile(self.targets)
        except re.error as error:
            message = f"lora.targets={self.targets!r} is no regular expression: {error}"
            raise UserError(message) from None

    @property
    def scale(self) -> float:
        """The factor of what is added to a kernel."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilized else self.rank)


def target_paths(params: Params, config: LoraConfig) -> list[Path]:
    """Finds the paths of the kernels to adapt, sorted; shapes are enough for `params`.

    Raises:
      UserError: the pattern matches nothing, or what is no kernel.
    """
    paths = sorted(traverse_util.flatten_dict(params))
    found = [path for path in paths if re.search(config.targets, "/".join(path))]
    others = [path for path in found if path[-1] != "kernel"]
    if others:
        raise UserError(
            f"lora.targets={config.targets!r} matches {'/'.join(others[0])}, which is no kernel; "
            "let it end in /kernel"
        )
    if not found:
        kernels = ["/".join(path) for path in paths if path[-1] == "kernel"]
        listed = ", ".join(kernels[:8] + (["..."] if len(kernels) > 8 else []))
        raise UserError(
            f"lora.targets={config.targets!r} matches no parameter; kernels are {listed}"
        )
    return found


def init_adapters(params: Params, config: LoraConfig, key: jax.Array) -> Params:
    """Makes adapters that change nothing yet: `a` is random, `b` is zero, magnitudes as they are.

    Args:
      params: what they will be merged with; shapes are enough without `config.dora`.
      config: which ones, and how.
      key: of the run.

    Raises:
      UserError: see `target_paths`.
    """
    flat = traverse_util.flatten_dict(params)
    adapters = {}
    for path in target_paths(params, config):
        shape = flat[path].shape
        dims = kernel_dims(path, len(shape))
        into = dims.layers + dims.inputs
        # Uniform within 1/sqrt(inputs), as in `peft` (He et al. 2015, with a slope of sqrt(5)).
        bound = math.prod(shape[dims.layers : into]) ** -0.5
        # Each target draws by its name, so that no other target changes what it gets. CRC-32, since
        # Python's own hash of a text differs from process to process.
        own_key = jax.random.fold_in(key, np.uint32(zlib.crc32("/".join(path).encode())))
        a_shape = (*shape[:into], config.rank)
        adapters[(*path, "a")] = jax.random.uniform(own_key, a_shape, minval=-bound, maxval=bound)
        adapters[(*path, "b")] = jnp.zeros((*shape[: dims.layers], config.rank, *shape[into:]))
        if config.dora:
            adapters[(*path, "magnitude_scale")] = magnitudes(path, flat[path])
    return traverse_util.unflatten_dict(adapters)


def adapter_shapes(params: Params, config: LoraConfig) -> Params:
    """Gives the tree of adapters without any array; see `init_adapters`."""
    return jax.eval_shape(lambda p, key: init_adapters(p, config, key), params, jax.random.key(0))


def merge(params: Params, adapters: Params, config: LoraConfig) -> Params:
    """Adds adapters to parameters: W + scale x A B, or DoRA's; float32, the same tree as `params`.

    DoRA's is magnitude x V / |V|, where V = W + scale x A B and |V| is its length at each output
    unit (Liu et al. 2024, eq. 5). Parameters without an adapter are passed through as they are.
    """
    flat = traverse_util.flatten_dict(params)
    for path, adapter in by_kernel(adapters).items():
        merged = flat[path] + config.scale * _product(path, flat[path].ndim, adapter)
        if config.dora:
            # Where all weights of a unit are 0, the quotient is 0 and not NaN.
            length = jnp.maximum(magnitudes(path, merged), jnp.finfo(jnp.float32).tiny)
            # The length counts as a constant in gradients (section 4.3), which saves memory.
            gain = adapter["magnitude_scale"] / jax.lax.stop_gradient(length)
            merged = merged * jnp.expand_dims(gain, _input_dims(path, merged.ndim))
        flat[path] = merged
    return traverse_util.unflatten_dict(flat)


def by_kernel(adapters: Params) -> dict[Path, dict[str, Any]]:
    """Lists the adapter of each kernel by the kernel's path."""
    flat: dict[Path, dict[str, Any]] = {}
    for (*path, name), x in traverse_util.flatten_dict(adapters).items():
        flat.setdefault(tuple(path), {})[name] = x
    return flat


def magnitudes(path: Path, kernel: jax.Array) -> jax.Array:
    """Measures the weights of each output unit: (N, inputs, outputs) -> (N, outputs).

    Inputs and outputs may be several dimensions; outside the stack of layers there is no N.
    """
    return jnp.sqrt(jnp.sum(jnp.square(kernel), axis=_input_dims(path, kernel.ndim)))


def _input_dims(path: Path, ndim: int) -> tuple[int, ...]:
    dims = kernel_dims(path, ndim)
    return tuple(range(dims.layers, dims.layers + dims.inputs))


def _product(path: Path, ndim: int, adapter: dict[str, jax.Array]) -> jax.Array:
    """Multiplies A by B, in the shape of the kernel."""
    a, b = adapter["a"], adapter["b"]
    # No reshape to matrices, which would gather what is sharded: the rank, last in A, is behind the
    # layers in B, and what is left stands in the kernel's order already.
    num_layer_dims = kernel_dims(path, ndim).layers
    layers = tuple(range(num_layer_dims))
    contracted = (a.ndim - 1,), (num_layer_dims,)
    # The rank is small, so full precision costs nothing; TPUs and GPUs would round to fewer bits.
    highest = jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(a, b, (contracted, (layers, layers)), precision=highest)
