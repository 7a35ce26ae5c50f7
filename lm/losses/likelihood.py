"""Losses: sums beside their weights, never means.

Dimension key: B batch, L length, V vocabulary, D model width, N blocks, T length of a block.
"""

import functools

import jax
import jax.numpy as jnp

from lm.models.layers import LazyLogits

# Summed scalars by name. "loss" is differentiated; everything is divided by "num_tokens".
Sums = dict[str, jax.Array]


def cross_entropy(
    logits_BLV: jax.Array,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> Sums:
    """Sums the cross-entropy, in nats, and counts the tokens that it sums over.

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
    return _sums(logits_BLV, log_z_BL, targets_BL, weights_BL, z_loss, label_smoothing)


def _sums(logits_BLV, log_z_BL, targets_BL, weights_BL, z_loss, label_smoothing) -> Sums:
    picked_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    nll_BL = log_z_BL - picked_BL1[..., 0]
    loss_BL = nll_BL
    if label_smoothing:
        # The cross-entropy to the uniform distribution; to a mixture it is linear in the parts.
        uniform_BL = log_z_BL - jnp.mean(logits_BLV, axis=-1)
        loss_BL = (1 - label_smoothing) * nll_BL + label_smoothing * uniform_BL
    if z_loss:
        loss_BL = loss_BL + z_loss * jnp.square(log_z_BL)
    return {
        "loss": jnp.sum(loss_BL * weights_BL),
        "nll": jnp.sum(nll_BL * weights_BL),
        "num_tokens": jnp.sum(weights_BL),
    }


def output_cross_entropy(
    output: LazyLogits,
    targets_BL: jax.Array,
    weights_BL: jax.Array,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    num_blocks: int = 1,
) -> Sums:
    """Computes `cross_entropy` of the logits of `output`, one block of each row at a time.

    Where it is differentiated, the gradients of a block are computed while its logits are there
    (as in Hsu et al. 2024, section 3.2), so nothing is computed twice, and nothing of size
    B x L x V is kept for the backward pass.

    Args:
      output: hidden states and the map that makes logits of them.
      targets_BL, weights_BL, z_loss, label_smoothing: see `cross_entropy`.
      num_blocks: with N of them the logits take an N-th of their memory.

    Returns:
      As `cross_entropy`. "loss" alone has a gradient, to the three parts of `output`.
    """
    B, L = targets_BL.shape
    T = -(-L // num_blocks)

    def blocks(x):
        # Along L and not B: each block keeps the whole batch, which devices share.
        padded = jnp.pad(x, ((0, 0), (0, T * num_blocks - L), *[(0, 0)] * (x.ndim - 2)))
        return jnp.moveaxis(padded.reshape(B, num_blocks, T, *x.shape[2:]), 1, 0)

    weights_BL = weights_BL.astype(jnp.float32)  # Padding of the last block has the weight 0.
    settings = (float(z_loss), float(label_smoothing))
    x_NBTD, *of_targets = map(blocks, (output.hidden_BLD, targets_BL, weights_BL))
    # A scalar in place of no bias, since a rule for gradients wants an array to give one to.
    bias_V = jnp.zeros((), jnp.float32) if output.bias_V is None else output.bias_V
    loss, nll = _loss_and_nll(settings, x_NBTD, output.unembed_VD, bias_V, *of_targets)
    nll = jax.lax.stop_gradient(nll)
    return {"loss": loss, "nll": nll, "num_tokens": jnp.sum(weights_BL)}


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _loss_and_nll(settings, x_NBTD, unembed_VD, bias_V, targets_NBT, weights_NBT):
    """Sums over all blocks."""

    def add(total, block):
        sums, _ = _block(settings, unembed_VD, bias_V, *block)  # Unused gradients are not computed.
        return jax.tree.map(jnp.add, total, sums), None

    zeros = jnp.zeros(()), jnp.zeros(())
    return _over_blocks(add, zeros, (x_NBTD, targets_NBT, weights_NBT))[0]


def _forward(settings, x_NBTD, unembed_VD, bias_V, targets_NBT, weights_NBT):
    """Gives the sums, and the gradients of the loss by all three that are differentiated."""

    def add(total, block):
        x_BTD = block[0]
        sums, grad_BTV = _block(settings, unembed_VD, bias_V, *block)
        # In the model's dtype, as autodiff has it; only the sums over tokens stay in float32.
        grad_BTV = grad_BTV.astype(x_BTD.dtype)
        grad_DV = jnp.einsum("BTD,BTV->DV", x_BTD, grad_BTV, preferred_element_type=jnp.float32)
        grads = (
            _no_cpu_transpose_fusion(grad_DV).T,
            jnp.sum(grad_BTV, axis=(0, 1), dtype=jnp.float32) if bias_V.ndim else jnp.zeros(()),
        )
        grad_x_BTD = jnp.einsum("BTV,VD->BTD", grad_BTV, unembed_VD.astype(x_BTD.dtype))
        return jax.tree.map(jnp.add, total, (sums, grads)), grad_x_BTD

    scalar = jnp.zeros(())
    zeros = (scalar, scalar), (jnp.zeros(unembed_VD.shape), jnp.zeros(bias_V.shape))
    (sums, (grad_VD, grad_V)), grad_x_NBTD = _over_blocks(
        add, zeros, (x_NBTD, targets_NBT, weights_NBT)
    )
    return sums, (grad_x_NBTD, grad_VD.astype(unembed_VD.dtype), grad_V.astype(bias_V.dtype))


def _no_cpu_transpose_fusion(product: jax.Array) -> jax.Array:
    """Stops XLA:CPU from fusing the transpose into the product: 2x slower, missing in 16 bits."""
    barrier = jax.lax.optimization_barrier
    return jax.lax.platform_dependent(product, cpu=barrier, default=lambda x: x)


def _backward(settings, grads, cotangents):
    del settings
    by_loss, _ = cotangents  # That of the nll is 0, because of `stop_gradient`.
    # The gradients are there already and the loss is a scalar, so the chain rule is one factor.
    scaled = jax.tree.map(lambda grad: grad * by_loss.astype(grad.dtype), grads)
    return (*scaled, None, None)


_loss_and_nll.defvjp(_forward, _backward)


def _over_blocks(add, zeros, blocks):
    """Does what `lax.scan` does, without a loop for a single block."""
    if len(blocks[0]) > 1:
        return jax.lax.scan(add, zeros, blocks)
    total, out = add(zeros, jax.tree.map(lambda x: x[0], blocks))
    return total, None if out is None else out[None]


def _block(settings, unembed_VD, bias_V, x_BTD, targets_BT, weights_BT):
    """Gives the sums of one block, and the gradient of its loss by its logits, float32."""
    z_loss, label_smoothing = settings
    output = LazyLogits(x_BTD, unembed_VD, bias_V if bias_V.ndim else None)
    logits_BTV = output.logits().astype(jnp.float32)
    # One pass of exponentials for both the sums and the gradient.
    top_BT1 = jnp.max(logits_BTV, axis=-1, keepdims=True)
    exp_BTV = jnp.exp(logits_BTV - top_BT1)
    total_BT1 = jnp.sum(exp_BTV, axis=-1, keepdims=True)
    log_z_BT1 = top_BT1 + jnp.log(total_BT1)
    sums = _sums(logits_BTV, log_z_BT1[..., 0], targets_BT, weights_BT, z_loss, label_smoothing)

    # d loss / d logits = w (1 + 2 z log Z) softmax - w ((1 - s) one-hot + s / V).
    weights_BT1, V = weights_BT[:, :, None], logits_BTV.shape[-1]
    scale_BT1 = weights_BT1 / total_BT1
    if z_loss:
        scale_BT1 = scale_BT1 * (1 + 2 * z_loss * log_z_BT1)
    # Compared and not scattered, so that it fuses with the rest into one pass over the logits.
    is_target_BTV = jnp.arange(V)[None, None] == targets_BT[:, :, None]
    wanted_BTV = jnp.where(is_target_BTV, (1 - label_smoothing) * weights_BT1, 0.0)
    if label_smoothing:
        wanted_BTV = wanted_BTV + label_smoothing / V * weights_BT1
    return (sums["loss"], sums["nll"]), exp_BTV * scale_BT1 - wanted_BTV
