"""Matrices that lie in memory twice, so that CPUs multiply few rows as fast as they read memory.

A CPU multiplies one row by a matrix in about the time that reading it takes. For 2 to 16 rows XLA
first lays the whole matrix out anew, which takes two to three times that (docs/performance.md). Of
blocks of a few outputs each it has one product a block, for which that is done beforehand.

A row's result is the same in any number of rows.

Dimension key:
  N rows, of all tokens    D inputs    F outputs    Q blocks    T outputs of a block
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lm.models.parameters import Params, map_decoding_matrices

FEW_TOKENS = 31  # Of a row, at most: prompts are read by more, and have the usual product.
_BLOCK = 64  # Outputs.
_MOST_ROWS = 128  # With more the usual product is the faster one.


@struct.dataclass
class BlockedMatrix:
    """A matrix of outputs x inputs, and its outputs in blocks, of which the last may have zeros."""

    whole_FD: jax.Array  # First, since Flax compares its shape with the parameter's.
    blocks_QDT: jax.Array

    def rows(self, ids: jax.Array, dtype: Any) -> jax.Array:
        """Looks up rows: ... -> ... x D."""
        return self.whole_FD[ids].astype(dtype)

    def product(self, x_ND: jax.Array) -> jax.Array:
        """Multiplies rows by the matrix: N x D -> N x F."""
        if len(x_ND) > _MOST_ROWS:
            return (self.whole_FD @ x_ND.T).T
        num_rows = len(x_ND)
        if num_rows == 1:  # XLA would add up one row in another order, and be slower.
            x_ND = jnp.concatenate([x_ND, jnp.zeros_like(x_ND)])
        x_QND = jnp.broadcast_to(x_ND[None], (len(self.blocks_QDT), *x_ND.shape))
        y_QNT = jnp.einsum("QND,QDT->QNT", x_QND, self.blocks_QDT)
        y_NF = y_QNT.transpose(1, 0, 2).reshape(len(x_ND), -1)
        return y_NF[:num_rows, : len(self.whole_FD)]


def block(matrix_FD: jax.Array) -> BlockedMatrix:
    """Lays a matrix out in blocks, too."""
    F, D = matrix_FD.shape
    padded = jnp.pad(matrix_FD, ((0, -F % _BLOCK), (0, 0)))
    return BlockedMatrix(matrix_FD, padded.reshape(-1, _BLOCK, D).transpose(0, 2, 1))


def block_for_decoding(params: Params) -> Params:
    """Lays out in blocks the matrices that decoding multiplies by, where that is faster: in
    float32, on one CPU.

    Args:
      params: of `kv_cache.unstack_layers`.
    """

    def convert(matrix: Any) -> Any:
        is_array = isinstance(matrix, jax.Array) and not isinstance(matrix, jax.core.Tracer)
        if not is_array or matrix.dtype != jnp.float32 or len(matrix.sharding.device_set) > 1:
            return matrix
        return _block(matrix)

    return params if jax.default_backend() != "cpu" else map_decoding_matrices(params, convert)


_block = jax.jit(block)
