"""The parts that families share: affine maps, norms, MLPs.

Parameters are float32 and are cast to `dtype` where they are used.

Dimension key:
  B batch    L query length    D model width    F MLP width    V vocabulary
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

# The activations by the names that papers and `transformers` give them.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),  # Hendrycks & Gimpel 2016
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}


@struct.dataclass
class Output:
    """Hidden states and the affine map that makes logits of them; losses take it in blocks.

    x_BLD: in the dtype to compute in.
    table_VD: the parameter, float32.
    bias_V: the same, or None.
    """

    x_BLD: jax.Array
    table_VD: jax.Array
    bias_V: jax.Array | None = None

    def logits(self) -> jax.Array:
        """B x L x V, in the dtype of the hidden states."""
        logits_BLV = jnp.einsum("BLD,VD->BLV", self.x_BLD, self.table_VD.astype(self.x_BLD.dtype))
        if self.bias_V is None:
            return logits_BLV
        return logits_BLV + self.bias_V.astype(logits_BLV.dtype)[None, None]


class KernelDims(NamedTuple):
    """How many dimensions of a kernel, in this order, count layers, are read, and are written."""

    layers: int
    inputs: int
    outputs: int


def kernel_dims(path: tuple[str, ...], ndim: int) -> KernelDims:
    """The dimensions of the `Dense` kernel at this path of a parameter tree.

    `layers/attention/out/kernel`, N x H x K x D: 1, 2, 1. `pooler/kernel`, D x D: 0, 1, 1.
    """
    layers = int("layers" in path)
    inputs = 2 if path[-2] == "out" and ndim - layers == 3 else 1  # Attention's reads heads.
    return KernelDims(layers, inputs, ndim - layers - inputs)


class Dense(nn.Module):
    """Affine map from the last dimensions of the input to `out_shape`.

    The kernel keeps its logical shape (D x H x K for a projection into heads), so that sharding
    rules and weight maps can name heads; it is multiplied as one matrix, which is what CPUs and
    GPUs like.
    """

    out_shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    num_in_dims: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *in_shape) -> (..., *out_shape)."""
        in_shape = x.shape[x.ndim - self.num_in_dims :]
        lead_shape = x.shape[: x.ndim - self.num_in_dims]
        kernel = self.param("kernel", self.kernel_init, (*in_shape, *self.out_shape))
        matrix = kernel.astype(self.dtype).reshape(math.prod(in_shape), -1)
        y = x.reshape(-1, math.prod(in_shape)) @ matrix
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), self.out_shape)
            y = y + bias.astype(self.dtype).reshape(1, -1)
        return y.reshape(*lead_shape, *self.out_shape)


class LayerNorm(nn.Module):
    """Normalises the last dimension in float32 (Ba et al. 2016, eq. 4)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        D = x_BLD.shape[-1]
        scale_D = self.param("scale", nn.initializers.ones_init(), (D,))
        bias_D = self.param("bias", nn.initializers.zeros_init(), (D,))
        x_BLD = x_BLD.astype(jnp.float32)
        centred_BLD = x_BLD - jnp.mean(x_BLD, axis=-1, keepdims=True)
        variance_BL1 = jnp.mean(jnp.square(centred_BLD), axis=-1, keepdims=True)
        y_BLD = centred_BLD * jax.lax.rsqrt(variance_BL1 + self.epsilon)
        return (y_BLD * scale_D[None, None] + bias_D[None, None]).astype(self.dtype)


class RmsNorm(nn.Module):
    """Divides the last dimension by its root mean square, in float32 (Zhang & Sennrich 2019)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        scale_D = self.param("scale", nn.initializers.ones_init(), (x_BLD.shape[-1],))
        x_BLD = x_BLD.astype(jnp.float32)
        square_BL1 = jnp.mean(jnp.square(x_BLD), axis=-1, keepdims=True)
        y_BLD = x_BLD * jax.lax.rsqrt(square_BL1 + self.epsilon)
        return (y_BLD * scale_D[None, None]).astype(self.dtype)


class Mlp(nn.Module):
    """Two affine maps with an activation between them."""

    mlp_dim: int
    activation: str
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype
    use_bias: bool = True
    dropout: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        dense = functools.partial(Dense, dtype=self.dtype, use_bias=self.use_bias)
        h_BLF = dense((self.mlp_dim,), self.in_init, name="in")(x_BLD)
        h_BLF = ACTIVATIONS[self.activation](h_BLF)
        if self.dropout is not None:
            h_BLF = self.dropout(h_BLF)
        return dense((x_BLD.shape[-1],), self.out_init, name="out")(h_BLF)


class GatedMlp(nn.Module):
    """A linear map times an activated one, then a third; no biases (Shazeer 2020, eq. 6)."""

    mlp_dim: int
    activation: str
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype
    dropout: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        dense = functools.partial(Dense, dtype=self.dtype, use_bias=False)
        gate_BLF = dense((self.mlp_dim,), self.in_init, name="gate")(x_BLD)
        h_BLF = dense((self.mlp_dim,), self.in_init, name="in")(x_BLD)
        h_BLF = ACTIVATIONS[self.activation](gate_BLF) * h_BLF
        if self.dropout is not None:
            h_BLF = self.dropout(h_BLF)
        return dense((x_BLD.shape[-1],), self.out_init, name="out")(h_BLF)
