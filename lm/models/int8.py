"""Matrices of 8-bit integers, for decoding: a quarter of the bytes, and faster products.

Both factors of a product are rounded to multiples of a scale of their own, of each output for the
matrix and of each row for what is multiplied (vector-wise quantisation, Dettmers et al. 2022,
section 3.1). Sums are exact, in 32 bits, so that a row's result does not depend on other rows.

Dimension key:
  N rows, of all tokens    D inputs    F outputs
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lm.models.blocked_matrix import BlockedMatrix
from lm.models.parameters import Params, map_decoding_matrices

_MOST = 127  # Of -127 to 127: symmetric, so that nothing has to be added to products.


@struct.dataclass
class Int8Matrix:
    """A matrix of outputs x inputs: row f is scale_F[f] * values_FD[f]."""

    values_FD: jax.Array  # int8; first, since Flax compares its shape with the parameter's.
    scale_F: jax.Array  # float32.

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Looks up rows: ... -> ... x D."""
        values = self.values_FD[ids].astype(jnp.float32)
        return (values * self.scale_F[ids][..., None]).astype(dtype)

    def product(self, x_ND: jax.Array) -> jax.Array:
        """Multiplies rows by the matrix: N x D -> N x F, float32."""
        rounded = quantize(x_ND)
        x8_ND, num_rows = rounded.values_FD, x_ND.shape[0]
        if num_rows == 1:
            # XLA took twenty times as long for one row as for two, on CPUs.
            x8_ND = jnp.concatenate([x8_ND, jnp.zeros_like(x8_ND)])
        # The matrix first, as in `layers.Dense`: for few rows CPUs are faster that way.
        y_FN = jax.lax.dot_general(
            self.values_FD, x8_ND, (((1,), (1,)), ((), ())), preferred_element_type=jnp.int32
        )
        y_NF = y_FN[:, :num_rows].T.astype(jnp.float32)
        return y_NF * rounded.scale_F[:, None] * self.scale_F[None]


def quantize(matrix_FD: jax.Array) -> Int8Matrix:
    """Rounds each row of F x D to the 255 multiples of a scale that reach its largest number."""
    matrix_FD = jnp.asarray(matrix_FD, jnp.float32)
    top_F = jnp.max(jnp.abs(matrix_FD), axis=1)
    scale_F = jnp.where(top_F > 0, top_F / _MOST, 1.0)
    values_FD = jnp.round(matrix_FD / scale_F[:, None]).astype(jnp.int8)
    return Int8Matrix(values_FD, scale_F)


def quantize_for_decoding(params: Params) -> Params:
    """Rounds the matrices of decoder layers and the table that makes logits; all else stays.

    Args:
      params: of `kv_cache.unstack_for_decoding`.
    """

    def convert(matrix: Any) -> Int8Matrix:
        if isinstance(matrix, Int8Matrix):
            return matrix
        return _quantize(matrix.whole_FD if isinstance(matrix, BlockedMatrix) else matrix)

    return map_decoding_matrices(params, convert)


_quantize = jax.jit(quantize)
