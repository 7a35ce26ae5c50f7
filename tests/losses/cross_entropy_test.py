import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.losses import likelihood
from lm.models.layers import LazyLogits

LOGITS_BLV = jax.random.normal(jax.random.key(0), (2, 5, 7))
TARGETS_BL = jax.random.randint(jax.random.key(1), (2, 5), 0, 7)
WEIGHTS_BL = jnp.ones((2, 5)).at[:, 3:].set(0)


def test_label_smoothing_is_optax_on_smoothed_labels():
    sums = likelihood.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL, label_smoothing=0.2)

    labels_BLV = optax.smooth_labels(jax.nn.one_hot(TARGETS_BL, 7), 0.2)
    expected_BL = optax.softmax_cross_entropy(LOGITS_BLV, labels_BLV)
    np.testing.assert_allclose(sums["loss"], expected_BL[:, :3].sum(), rtol=1e-6)
    assert sums["num_tokens"] == 6


def test_z_loss_adds_the_squared_log_normaliser():
    plain = likelihood.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL)
    shifted = likelihood.cross_entropy(LOGITS_BLV + 3, TARGETS_BL, WEIGHTS_BL, z_loss=0.1)

    log_z_BL = jax.nn.logsumexp(LOGITS_BLV + 3, axis=-1)[:, :3]
    np.testing.assert_allclose(shifted["nll"], plain["nll"], rtol=1e-5)
    np.testing.assert_allclose(
        shifted["loss"], plain["nll"] + 0.1 * jnp.sum(log_z_BL**2), rtol=1e-5
    )


def test_a_target_without_weight_does_not_count():
    edited_BL = TARGETS_BL.at[:, 3:].set(0)
    kwargs = dict(z_loss=0.1, label_smoothing=0.1)

    before = likelihood.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL, **kwargs)
    after = likelihood.cross_entropy(LOGITS_BLV, edited_BL, WEIGHTS_BL, **kwargs)

    jax.tree.map(np.testing.assert_array_equal, before, after)


X_BLD = jax.random.normal(jax.random.key(2), (2, 5, 3))
TABLE_VD = jax.random.normal(jax.random.key(3), (7, 3))
PARTS = {
    "with a bias": (X_BLD, TABLE_VD, jax.random.normal(jax.random.key(4), (7,))),
    "without a bias": (X_BLD, TABLE_VD),
}
SETTINGS = {
    "plain": {},
    "z-loss": dict(z_loss=0.3),
    "smoothed": dict(label_smoothing=0.2),
    "both": dict(z_loss=0.3, label_smoothing=0.2),
}


@pytest.mark.parametrize("num_blocks", [1, 2, 5])
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("parts", PARTS)
def test_blocks_have_the_loss_and_the_gradients_of_whole_logits(parts, settings, num_blocks):
    def whole(parts):
        logits = LazyLogits(*parts).logits()
        sums = likelihood.cross_entropy(logits, TARGETS_BL, WEIGHTS_BL, **SETTINGS[settings])
        return 1.7 * sums["loss"], sums

    def in_blocks(parts):
        sums = likelihood.output_cross_entropy(
            LazyLogits(*parts), TARGETS_BL, WEIGHTS_BL, num_blocks=num_blocks, **SETTINGS[settings]
        )
        return 1.7 * sums["loss"], sums

    (_, expected), expected_grads = jax.value_and_grad(whole, has_aux=True)(PARTS[parts])
    (_, sums), grads = jax.value_and_grad(in_blocks, has_aux=True)(PARTS[parts])
    undifferentiated = in_blocks(PARTS[parts])[1]

    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, sums, expected)
    jax.tree.map(close, undifferentiated, expected)
    jax.tree.map(close, grads, expected_grads)


def test_no_array_of_whole_logits_is_made_in_blocks():
    def loss(parts, num_blocks):
        sums = likelihood.output_cross_entropy(
            LazyLogits(*parts), TARGETS_BL, WEIGHTS_BL, num_blocks=num_blocks
        )
        return sums["loss"]

    sizes = {}
    for num_blocks in (1, 5):
        text = str(
            jax.make_jaxpr(jax.grad(functools.partial(loss, num_blocks=num_blocks)))(
                PARTS["with a bias"]
            )
        )
        sizes[num_blocks] = "f32[2,5,7]" in text, "f32[2,1,7]" in text

    assert sizes == {1: (True, False), 5: (False, True)}


def test_hidden_states_of_half_precision_get_gradients_of_half_precision():
    half = X_BLD.astype(jnp.bfloat16), TABLE_VD

    def loss(parts):
        return likelihood.output_cross_entropy(LazyLogits(*parts), TARGETS_BL, WEIGHTS_BL)["loss"]

    grad_x, grad_table = jax.jit(jax.grad(loss))(half)

    assert (grad_x.dtype, grad_table.dtype) == (jnp.bfloat16, jnp.float32)
    exact_x, exact_table = jax.grad(loss)((X_BLD, TABLE_VD))
    np.testing.assert_allclose(grad_x, exact_x, atol=0.03)
    np.testing.assert_allclose(grad_table, exact_table, atol=0.05)
