import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.errors import UserError
from lm.models.matmuls import check_matmul, fp8_matmul


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def with_gradients(matmul, x_ND, w_DF, dy_NF):
    y_NF, backward = jax.vjp(matmul, x_ND, w_DF)
    return y_NF, *backward(dy_NF)


def test_numbers_that_8_bits_hold_are_multiplied_exactly():
    rng = np.random.default_rng(0)
    # Four significant bits at sizes that 8 bits alone do not hold; three of the gradient, which
    # ranges from 1 to a millionth.
    x_ND, w_DF = rng.integers(-15, 16, (2, 8, 8)).astype(np.float32)
    x_ND, w_DF, dy_NF = x_ND * 2.0**-20, w_DF * 2.0**15, random(8, 8)
    dy_NF = np.sign(dy_NF) * rng.integers(4, 8, (8, 8)).astype(np.float32)
    dy_NF *= 2.0 ** -(30 + 3 * np.arange(8, dtype=np.float32))[:, None]

    found = with_gradients(fp8_matmul, x_ND, w_DF, dy_NF)

    for a, b in zip(found, with_gradients(jnp.matmul, x_ND, w_DF, dy_NF), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_other_numbers_are_rounded_to_as_many_bits_as_their_formats_have(dtype):
    inputs = [jnp.asarray(x, dtype) for x in (random(64, 32), random(32, 16), random(64, 16))]

    found = with_gradients(fp8_matmul, *inputs)

    expected = with_gradients(jnp.matmul, *(x.astype(jnp.float32) for x in inputs))
    for a, b, most in zip(found, expected, (2**-4, 2**-3, 2**-3), strict=True):
        assert a.dtype == dtype
        error = jnp.linalg.norm(a.astype(jnp.float32) - b) / jnp.linalg.norm(b)
        assert most / 16 < error < most


def test_zeros_give_zeros_and_what_is_not_finite_is_not_hidden():
    zero_DD, x_DD = np.zeros((4, 4), np.float32), random(4, 4)

    assert all(not np.any(x) for x in with_gradients(fp8_matmul, zero_DD, zero_DD, zero_DD))
    for odd in (np.inf, np.nan):
        x_DD[0, 0] = odd
        assert not np.all(np.isfinite(fp8_matmul(x_DD, x_DD)))


def test_8_bits_need_a_card_that_has_them_or_a_cpu_to_simulate_one():
    for platform, capability in [("gpu", (8, 9)), ("gpu", (9, 0)), ("cpu", None)]:
        check_matmul("fp8", platform=platform, capability=capability)
    check_matmul("plain", platform="tpu", capability=None)
    with pytest.raises(UserError, match=r"'fp8' needs compute capability 8.9 and .* has 8.0"):
        check_matmul("fp8", platform="gpu", capability=(8, 0))
    with pytest.raises(UserError, match="this is a tpu; use plain"):
        check_matmul("fp8", platform="tpu", capability=None)
    with pytest.raises(UserError, match="'fp4' is unknown; choose plain, fp8"):
        check_matmul("fp4", platform="cpu", capability=None)
