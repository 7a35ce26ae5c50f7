"""Losses: sums beside their weights, never means.

Dimension key: B batch, L length, V vocabulary.
"""

import jax
import jax.numpy as jnp

# Summed scalars by name. "loss" is what is differentiated, "num_tokens" what everything is divided
# by.
Sums = dict[str, jax.Array]


def cross_entropy(
    logits_BLV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Sums:
    """Summed cross-entropy in nats, and the number of tokens that it sums over.

    Micro-batches, hosts and evaluation batches hold unequal numbers of tokens, so only sums add up
    exactly. The caller divides once, at the end.

    Args:
      logits_BLV: any float type; the arithmetic is float32.
      targets_BL: token ids; where the weight is 0 they may be anything in the vocabulary.
      weights_BL: 1 for a token that counts, 0 for one that does not.
      z_loss: weight of log(Z)^2, which keeps logits from drifting (Chowdhery et al. 2022, section
        5).
      label_smoothing: share of the target spread evenly over the vocabulary (Szegedy et al. 2016,
        section 7).

    Returns:
      "loss" with both penalties, "nll" without, "num_tokens": the sum of the weights.
    """
    logits_BLV = logits_BLV.astype(jnp.float32)
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    picked_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    nll_BL = log_z_BL - picked_BL1[..., 0]
    loss_BL = nll_BL
    if label_smoothing:
        uniform_BL = log_z_BL - jnp.mean(logits_BLV, axis=-1)
        loss_BL = (1 - label_smoothing) * nll_BL + label_smoothing * uniform_BL
    if z_loss:
        loss_BL = loss_BL + z_loss * jnp.square(log_z_BL)
    return {
        "loss": jnp.sum(loss_BL * weights_BL),
        "nll": jnp.sum(nll_BL * weights_BL),
        "num_tokens": jnp.sum(weights_BL),
    }
