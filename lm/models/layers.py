"""The parts that families share: affine maps, norms, MLPs.

Parameters are float32 and are cast to `dtype` where they are used.

Dimension key:
  B batch    L query length    D model width    F MLP width    V vocabulary
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lm.models.blocked_matrix import FEW_TOKENS, BlockedMatrix
from lm.models.int8 import Int8Matrix
from lm.models.parameters import TRANSPOSED

# (x, w) -> x w, of matrices of the dtype to compute in; see `lm.models.matmuls`.
Matmul = Callable[[jax.Array, jax.Array], jax.Array]


def _keeping_inputs(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Recomputes a function in its backward pass, which keeps nothing but the inputs."""
    # Autodiff would keep several intermediates of B x L x F, more than all else of a block.
    kept = jax.custom_vjp(function)
    kept.defvjp(
        lambda *inputs: (function(*inputs), inputs),
        lambda inputs, cotangent: jax.vjp(function, *inputs)[1](cotangent),
    )
    return kept


# The activations by the names that papers and `transformers` give them.
_ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_new": functools.partial(jax.nn.gelu, approximate=True),  # Hendrycks & Gimpel 2016
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
# ReLU's own gradient needs no more than a bit of each number.
ACTIVATIONS = {
    name: function if name == "relu" else _keeping_inputs(function)
    for name, function in _ACTIVATIONS.items()
}


def _gated(activation: str) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Makes the function (gate, x) -> activation(gate) x."""
    return _keeping_inputs(lambda gate_BLF, x_BLF: _ACTIVATIONS[activation](gate_BLF) * x_BLF)


@struct.dataclass
class LazyLogits:
    """Hidden states and the affine map that makes logits of them; losses take it in blocks."""

    hidden_BLD: jax.Array  # In the dtype to compute in.
    # The parameter, mostly float32; so is the bias.
    unembed_VD: jax.Array | BlockedMatrix | Int8Matrix
    bias_V: jax.Array | None = None

    def logits(self) -> jax.Array:
        """Computes B x L x V, in the dtype of the hidden states."""
        # Cast here and not by the caller: the gradient of a tied table then adds up in float32.
        unembed_VD = self.unembed_VD.astype(self.hidden_BLD.dtype)
        logits_BLV = jnp.einsum("BLD,VD->BLV", self.hidden_BLD, unembed_VD)
        if self.bias_V is None:
            return logits_BLV
        return logits_BLV + self.bias_V.astype(logits_BLV.dtype)[None, None]


def embed(
    table_VD: jax.Array | BlockedMatrix | Int8Matrix, ids_BL: jax.Array, dtype: jnp.dtype
) -> jax.Array:
    """Looks up rows of a float32 table: B x L -> B x L x D in `dtype`."""
    if isinstance(table_VD, BlockedMatrix | Int8Matrix):
        return table_VD.rows(ids_BL, dtype)
    # Cast behind the look-up, so that a row's gradient, a sum over all tokens of its id, is added
    # up in float32: in 16 bits it would no longer grow after some hundred tokens.
    return jnp.asarray(table_VD)[ids_BL].astype(dtype)


def embed_few(table_SD: jax.Array, ids_BL: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Looks up rows of a table that has but a few, as `embed` does."""
    # A product, because in the gradient of a look-up all tokens that add to the same row wait for
    # each other: that took half of a step of BERT-base on a GPU. "highest", so that GPUs and TPUs
    # do not round a float32 row to fewer bits.
    one_hot_BLS = jax.nn.one_hot(ids_BL, table_SD.shape[0], dtype=dtype)
    return jnp.einsum("BLS,SD->BLD", one_hot_BLS, table_SD.astype(dtype), precision="highest")


class Dense(nn.Module):
    """Affine map from the last dimensions of the input to `out_shape`.

    The kernel keeps its logical shape (D x H x K for a projection into heads), so that sharding
    rules and weight maps can name heads. Parameters may hold it `transposed`, under that name.
    """

    out_shape: tuple[int, ...]
    kernel_init: nn.initializers.Initializer
    dtype: jnp.dtype
    num_in_dims: int = 1
    use_bias: bool = True
    matmul: Matmul = jnp.matmul

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., *in_shape) -> (..., *out_shape)."""
        in_shape = x.shape[x.ndim - self.num_in_dims :]
        lead_shape = x.shape[: x.ndim - self.num_in_dims]
        # One product of matrices, which is what CPUs and GPUs like.
        rows = x.reshape(-1, math.prod(in_shape))
        if self.has_variable("params", TRANSPOSED):
            # For few rows CPUs read the matrix faster in this order. It is of `dtype` already.
            matrix = self.get_variable("params", TRANSPOSED)
            if isinstance(matrix, BlockedMatrix) and lead_shape[-1] > FEW_TOKENS:
                matrix = matrix.whole_FD
            if isinstance(matrix, BlockedMatrix | Int8Matrix):
                y = matrix.product(rows).astype(self.dtype)
            else:
                y = self.matmul(matrix, rows.T).T
        else:
            kernel = self.param("kernel", self.kernel_init, (*in_shape, *self.out_shape))
            y = self.matmul(rows, kernel.astype(self.dtype).reshape(rows.shape[1], -1))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros_init(), self.out_shape)
            y = y + bias.astype(self.dtype).reshape(1, -1)
        return y.reshape(*lead_shape, *self.out_shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _normalised(centre: bool, epsilon: float, dtype, x_BLD, scale_D, bias_D):
    """Brings B x L x D to mean 0 (with `centre`) and mean square 1, then scales and shifts it."""
    return _normalise(centre, epsilon, dtype, x_BLD, scale_D, bias_D)[0]


def _normalise(centre, epsilon, dtype, x_BLD, scale_D, bias_D):
    x32_BLD, mean_BL1 = x_BLD.astype(jnp.float32), None
    if centre:  # Centred first: E[x^2] - E[x]^2 would cancel where the mean is large.
        mean_BL1 = jnp.mean(x32_BLD, axis=-1, keepdims=True)
        x32_BLD = x32_BLD - mean_BL1
    rstd_BL1 = jax.lax.rsqrt(jnp.mean(jnp.square(x32_BLD), axis=-1, keepdims=True) + epsilon)
    y_BLD = x32_BLD * rstd_BL1 * scale_D[None, None]
    if bias_D is not None:
        y_BLD = y_BLD + bias_D[None, None]
    # For the gradient, the input as it came and two numbers a token; autodiff would keep several
    # float32 arrays of B x L x D.
    return y_BLD.astype(dtype), (x_BLD, mean_BL1, rstd_BL1, scale_D, bias_D)


def _normalise_backward(centre, epsilon, dtype, kept, dy_BLD):
    """With y = x rstd, and the mean over D: dx = rstd (dy - [mean dy] - y mean(y dy))."""
    x_BLD, mean_BL1, rstd_BL1, scale_D, bias_D = kept
    y_BLD, dy_BLD = x_BLD.astype(jnp.float32), dy_BLD.astype(jnp.float32)
    y_BLD = (y_BLD - mean_BL1 if centre else y_BLD) * rstd_BL1  # Before scale and bias.
    dscale_D = jnp.sum(dy_BLD * y_BLD, axis=(0, 1))
    dbias_D = None if bias_D is None else jnp.sum(dy_BLD, axis=(0, 1))
    dy_BLD = dy_BLD * scale_D[None, None]
    mean = lambda x_BLD: jnp.mean(x_BLD, axis=-1, keepdims=True)
    dx_BLD = dy_BLD - y_BLD * mean(y_BLD * dy_BLD)
    if centre:
        dx_BLD = dx_BLD - mean(dy_BLD)
    return (dx_BLD * rstd_BL1).astype(x_BLD.dtype), dscale_D, dbias_D


_normalised.defvjp(_normalise, _normalise_backward)


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
        return _normalised(True, self.epsilon, self.dtype, x_BLD, scale_D, bias_D)


class RmsNorm(nn.Module):
    """Divides the last dimension by its root mean square, in float32 (Zhang & Sennrich 2019)."""

    epsilon: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        scale_D = self.param("scale", nn.initializers.ones_init(), (x_BLD.shape[-1],))
        return _normalised(False, self.epsilon, self.dtype, x_BLD, scale_D, None)


class Mlp(nn.Module):
    """Two affine maps with an activation between them."""

    mlp_dim: int
    activation: str
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype
    matmul: Matmul
    use_bias: bool = True
    dropout: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        dense = functools.partial(
            Dense, dtype=self.dtype, matmul=self.matmul, use_bias=self.use_bias
        )
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
    matmul: Matmul
    dropout: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        """B x L x D -> B x L x D."""
        dense = functools.partial(Dense, dtype=self.dtype, matmul=self.matmul, use_bias=False)
        gate_BLF = dense((self.mlp_dim,), self.in_init, name="gate")(x_BLD)
        h_BLF = dense((self.mlp_dim,), self.in_init, name="in")(x_BLD)
        h_BLF = _gated(self.activation)(gate_BLF, h_BLF)
        if self.dropout is not None:
            h_BLF = self.dropout(h_BLF)
        return dense((x_BLD.shape[-1],), self.out_init, name="out")(h_BLF)
