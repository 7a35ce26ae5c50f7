"""Muon's directions: momentum whose matrices are made nearly orthogonal.

Dimension key: N layers, R rows, C columns, of which there are at least as many.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from lm.models.parameters import Params

_NUM_ITERATIONS = 5


def scale_by_muon(
    dimensions: Callable[[Params], Params], *, beta: float, eps: float
) -> optax.GradientTransformation:
    """Does what `contrib.scale_by_muon` does, with the same state, faster on a CPU.

    Args:
      dimensions: params -> `contrib.MuonDimensionNumbers` of each; dimension 0 counts layers.
      beta: decay of the momentum.
      eps: is added to the norm of a matrix.
    """
    reference = contrib.scale_by_muon(beta=beta, eps=eps, weight_dimension_numbers=dimensions)

    def update(updates, state, params=None):
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta, 1)
        # Nesterov's momentum, in which both terms are corrected for starting at 0.
        ahead = jax.tree.map(
            lambda m, g: beta * m + (1 - beta) * g,
            optax.tree.bias_correction(mu, beta, optax.safe_increment(count)),
            optax.tree.bias_correction(updates, beta, count),
        )
        matrices = jax.tree.map(
            lambda x, dims: _orthogonalised(x, dims, state.ns_coeffs, eps), ahead, dimensions(ahead)
        )
        return matrices, state._replace(count=count, mu=mu)

    return optax.GradientTransformation(reference.init, update)


def _orthogonalised(x: jax.Array, dims: contrib.MuonDimensionNumbers, coeffs_3, eps) -> jax.Array:
    """Brings all singular values of N matrices near 1 (Jordan et al. 2024)."""
    inputs, outputs = (math.prod(x.shape[dim] for dim in some) for some in dims)
    x_NRC = x.reshape(-1, inputs, outputs)
    tall = inputs > outputs
    x_NRC = x_NRC.mT if tall else x_NRC
    x_NRC = x_NRC / (jnp.linalg.norm(x_NRC, ord="fro", axis=(-2, -1), keepdims=True) + eps)
    coeffs_3, (_, R, C) = coeffs_3.astype(x_NRC.dtype), x_NRC.shape
    if C < 2 * R:  # The small products would be as many, or more.
        x_NRC = _newton_schulz(x_NRC, coeffs_3)
    else:  # Elsewhere than on CPUs products of float32 lose bits that the small ones need.
        x_NRC = jax.lax.platform_dependent(
            x_NRC, coeffs_3, cpu=_newton_schulz_in_small_products, default=_newton_schulz
        )
    return (x_NRC.mT if tall else x_NRC).reshape(x.shape)


def _newton_schulz(x_NRC: jax.Array, coeffs_3: jax.Array) -> jax.Array:
    """Iterates X' = P X with P = a + b G + c G^2 and G = X X^T."""
    a, b, c = coeffs_3
    for _ in range(_NUM_ITERATIONS):
        g_NRR = x_NRC @ x_NRC.mT
        x_NRC = a * x_NRC + (b * g_NRR + c * g_NRR @ g_NRR) @ x_NRC
    return x_NRC


def _newton_schulz_in_small_products(x_NRC: jax.Array, coeffs_3: jax.Array) -> jax.Array:
    """Iterates the same in products of R x R, but for the first and the last.

    P and G are polynomials of the first G, so they commute: G' = P P G, and the last X is the
    product of all P times the first X. Where C = 4 R, that is 50 R^3 multiplications in place of
    90 R^3. Rounding errors of G, unlike those of X, may be as large as a small singular value's
    square: where singular values span six orders of magnitude an entry of the result is right to
    0.003 of the root mean square of all, in place of 0.0003, which is less than bfloat16 loses.
    """
    a, b, c = coeffs_3
    g_NRR, product_NRR = x_NRC @ x_NRC.mT, None
    one_1RR = jnp.eye(g_NRR.shape[-1], dtype=g_NRR.dtype)[None]
    for step in range(_NUM_ITERATIONS):
        p_NRR = a * one_1RR + b * g_NRR + c * g_NRR @ g_NRR
        product_NRR = p_NRR if product_NRR is None else p_NRR @ product_NRR
        if step < _NUM_ITERATIONS - 1:
            g_NRR = p_NRR @ (p_NRR @ g_NRR)
    return product_NRR @ x_NRC
