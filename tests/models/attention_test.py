import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.errors import UserError
from lm.models import attention


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("length", [1, 3, 13, 16])
@pytest.mark.parametrize("packed", [False, True])
def test_blocked_attention_and_its_gradient_are_those_of_the_reference(length, packed):
    q, k, v, do = (random(2, length, 3, 5, seed=s) for s in range(4))
    segment_ids_BL = jnp.asarray(np.sort(random(2, length) > 0, axis=1).astype(np.int32))
    mask_BLM = attention.causal_mask(segment_ids_BL) if packed else None

    def with_gradients(attend):
        total = lambda q, k, v: jnp.sum(attend(q, k, v, mask_BLM=mask_BLM) * do)
        return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2)))(q, k, v)

    reference = with_gradients(attention.einsum_attention)
    blocked = with_gradients(attention.blocked_attention)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-5), blocked, reference
    )


@pytest.mark.parametrize(
    ("platform", "dtype", "dropout", "kernel"),
    [
        ("gpu", "bfloat16", 0.0, "cudnn"),
        ("gpu", "bfloat16", 0.1, "einsum"),
        ("gpu", "float32", 0.0, "einsum"),
        ("cpu", "float32", 0.0, "blocked"),
        ("cpu", "bfloat16", 0.0, "einsum"),
        ("tpu", "bfloat16", 0.0, "einsum"),
    ],
)
def test_auto_takes_the_fastest_kernel_that_can_do_it(platform, dtype, dropout, kernel):
    choice = attention.choose_attention(
        "auto", platform=platform, dtype=dtype, dropout=dropout, causal=True, biased=False
    )

    assert choice == kernel


@pytest.mark.parametrize("change", [dict(causal=False), dict(biased=True)], ids=str)
def test_a_kernel_that_cannot_do_what_a_family_needs_is_not_taken(change):
    settings = SETTINGS | dict(dtype="float32") | change

    assert attention.choose_attention("auto", platform="cpu", **settings) == "einsum"
    with pytest.raises(UserError, match="'blocked' cannot run"):
        attention.choose_attention("blocked", platform="cpu", **settings)


SETTINGS = dict(dtype="bfloat16", dropout=0.0, causal=True, biased=False)


def test_a_kernel_asked_for_by_name_is_never_replaced():
    with pytest.raises(UserError, match="NVIDIA GPU and this is a tpu"):
        attention.choose_attention("cudnn", platform="tpu", **SETTINGS)
    with pytest.raises(UserError, match="flash"):
        attention.choose_attention("flash", platform="gpu", **SETTINGS)
