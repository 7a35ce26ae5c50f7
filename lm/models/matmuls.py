"""Products of matrices, by the names of `model.matmul`.

Dimension key:
  N rows, of all tokens    D inputs    F outputs
"""

import functools

import jax
import jax.numpy as jnp

from lm.errors import UserError
from lm.models.layers import Matmul
from lm.settings import choose

_E4M3, _E5M2 = jnp.float8_e4m3fn, jnp.float8_e5m2


@jax.custom_vjp
def fp8_matmul(x_ND: jax.Array, w_DF: jax.Array) -> jax.Array:
    """Multiplies numbers rounded to 8 bits, added in float32: N x D, D x F -> N x F, of one dtype.

    Inputs and weights have 3 bits of mantissa (E4M3), gradients 2 and more range (E5M2), as in
    Micikevicius et al. 2022, section 3.
    """
    return _forward(x_ND, w_DF)[0]


def _forward(x_ND, w_DF):
    # The backward pass keeps what was rounded, which takes 8 bits a number.
    x8_ND, w8_DF = _rounded(x_ND, _E4M3), _rounded(w_DF, _E4M3)
    return _product(x8_ND, w8_DF, (1, 0)).astype(x_ND.dtype), (x8_ND, w8_DF)


def _backward(kept, dy_NF):
    x8_ND, w8_DF = kept
    dy8_NF = _rounded(dy_NF, _E5M2)
    dx_ND = _product(dy8_NF, w8_DF, (1, 1), precise=True)
    dw_DF = _product(x8_ND, dy8_NF, (0, 0), precise=True)
    return dx_ND.astype(dy_NF.dtype), dw_DF.astype(dy_NF.dtype)


fp8_matmul.defvjp(_forward, _backward)


def _rounded(x: jax.Array, dtype) -> tuple[jax.Array, jax.Array]:
    """Gives x / scale in 8 bits, and the scale, 1 for zeros; what is not finite stays so."""
    # A power of two, so that dividing by it loses no bit; made of the array's own largest number,
    # which it brings near the format's, so nothing has to be remembered from step to step.
    top = jnp.max(jnp.abs(x)).astype(jnp.float32) / float(jnp.finfo(dtype).max)
    scale = jnp.ldexp(jnp.float32(1), jnp.frexp(top)[1])
    return (x.astype(jnp.float32) / scale).astype(dtype), scale


def _product(a, b, dims: tuple[int, int], precise: bool = False) -> jax.Array:
    """Multiplies over these dimensions; float32."""
    (a8, a_scale), (b8, b_scale) = a, b
    dot = functools.partial(
        jax.lax.dot_general,
        dimension_numbers=(((dims[0],), (dims[1],)), ((), ())),
        # NVIDIA's cards add 8-bit products with fewer bits than float32 has, unless asked.
        precision=jax.lax.Precision.HIGHEST if precise else jax.lax.Precision.DEFAULT,
        preferred_element_type=jnp.float32,
    )
    # XLA has no such products for CPUs; in float32 they are exact.
    on_cpu = lambda a8, b8: dot(a8.astype(jnp.float32), b8.astype(jnp.float32))
    return jax.lax.platform_dependent(a8, b8, cpu=on_cpu, default=dot) * (a_scale * b_scale)


MATMULS: dict[str, Matmul] = {"plain": jnp.matmul, "fp8": fp8_matmul}


def check_matmul(name: str, *, platform: str, capability: tuple[int, int] | None) -> None:
    """Checks that this machine can compute such products. CPUs compute 8-bit ones, but slowly.

    Args:
      name: of `MATMULS`.
      platform: as `jax.default_backend()` says it.
      capability: of an NVIDIA GPU, as (9, 0); None for all else.

    Raises:
      UserError: an unknown name, or a device without such products.
    """
    choose("model.matmul", name, MATMULS)
    if name != "fp8" or platform == "cpu":
        return
    if capability is None:
        raise UserError(
            f"model.matmul='fp8' needs an NVIDIA GPU, or a CPU to simulate one, and this is a "
            f"{platform}; use plain"
        )
    if capability < (8, 9):
        raise UserError(
            f"model.matmul='fp8' needs compute capability 8.9 and this GPU has "
            f"{capability[0]}.{capability[1]}; use plain"
        )
