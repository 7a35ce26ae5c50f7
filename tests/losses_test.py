import jax
import jax.numpy as jnp
import numpy as np
import optax

from lm import losses

LOGITS_BLV = jax.random.normal(jax.random.key(0), (2, 5, 7))
TARGETS_BL = jax.random.randint(jax.random.key(1), (2, 5), 0, 7)
WEIGHTS_BL = jnp.ones((2, 5)).at[:, 3:].set(0)


def test_label_smoothing_is_optax_on_smoothed_labels():
    sums = losses.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL, label_smoothing=0.2)

    labels_BLV = optax.smooth_labels(jax.nn.one_hot(TARGETS_BL, 7), 0.2)
    expected_BL = optax.softmax_cross_entropy(LOGITS_BLV, labels_BLV)
    np.testing.assert_allclose(sums["loss"], expected_BL[:, :3].sum(), rtol=1e-6)
    assert sums["num_tokens"] == 6


def test_z_loss_adds_the_squared_log_normaliser():
    plain = losses.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL)
    shifted = losses.cross_entropy(LOGITS_BLV + 3, TARGETS_BL, WEIGHTS_BL, z_loss=0.1)

    log_z_BL = jax.nn.logsumexp(LOGITS_BLV + 3, axis=-1)[:, :3]
    np.testing.assert_allclose(shifted["nll"], plain["nll"], rtol=1e-5)
    np.testing.assert_allclose(
        shifted["loss"], plain["nll"] + 0.1 * jnp.sum(log_z_BL**2), rtol=1e-5
    )


def test_a_target_without_weight_does_not_count():
    edited_BL = TARGETS_BL.at[:, 3:].set(0)
    kwargs = dict(z_loss=0.1, label_smoothing=0.1)

    before = losses.cross_entropy(LOGITS_BLV, TARGETS_BL, WEIGHTS_BL, **kwargs)
    after = losses.cross_entropy(LOGITS_BLV, edited_BL, WEIGHTS_BL, **kwargs)

    jax.tree.map(np.testing.assert_array_equal, before, after)
