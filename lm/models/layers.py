"""The parts that every family shares: affine maps, normalisation, the MLP.

Parameters are float32 and are cast to `dtype` where they are used.

Dimension key:
  B batch    L query length    D model width    F MLP width
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


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

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *in_shape) -> (..., *out_shape)."""
        in_shape = x.shape[x.ndim - self.num_in_dims :]
        lead_shape = x.shape[: x.ndim - self.num_in_dims]
        kernel = self.param("kernel", self.kernel_init, (*in_shape, *self.out_shape))
        bias = self.param("bias", nn.initializers.zeros_init(), self.out_shape)
        matrix = kernel.astype(self.dtype).reshape(math.prod(in_shape), -1)
        y = x.reshape(-1, math.prod(in_shape)) @ matrix + bias.astype(self.dtype).reshape(1, -1)
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


class Mlp(nn.Module):
    """Two-layer perceptron with the tanh approximation of GELU (Hendrycks & Gimpel 2016)."""

    mlp_dim: int
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        D, F = x_BLD.shape[-1], self.mlp_dim
        h_BLF = Dense((F,), self.in_init, self.dtype, name="in")(x_BLD)
        h_BLF = jax.nn.gelu(h_BLF, approximate=True)
        return Dense((D,), self.out_init, self.dtype, name="out")(h_BLF)
