"""Multi-head attention under an arbitrary mask, and the kernels that compute it.

Dimension key:
  B batch    L query length    M key length    D model width    H heads    K head width
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.errors import UserError
from lm.models.layers import Dense

# (q_BLHK, k_BMHK, v_BMHK, mask_BLM) -> o_BLHK. No mask means causal: nothing else is hidden.
Attend = Callable[[jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array]


def causal_mask(segment_ids_BL: jax.Array) -> jax.Array:
    """B x L -> B x L x M: what a query may see, its own document up to itself.

    Padding (segment 0) sees itself, so that no row of the softmax is empty.
    """
    L = segment_ids_BL.shape[1]
    causal_LM = jnp.tril(jnp.ones((L, L), bool))
    return causal_LM[None] & (segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :])


def einsum_attention(dropout: nn.Module | None = None) -> Attend:
    """The reference: readable, any device, any mask, memory of B x H x L x M."""

    def attend(q_BLHK, k_BMHK, v_BMHK, mask_BLM):
        L, M, K = q_BLHK.shape[1], k_BMHK.shape[1], q_BLHK.shape[3]
        if mask_BLM is None:
            mask_BLM = jnp.tril(jnp.ones((L, M), bool))[None]
        # Softmax in float32: bfloat16 has too few bits to normalise long rows. A finite minimum, so
        # that a row with no visible key gives numbers and not NaN.
        scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK * K**-0.5, k_BMHK)
        scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM.astype(jnp.float32), -1e30)
        probs_BHLM = jax.nn.softmax(scores_BHLM, axis=-1).astype(v_BMHK.dtype)
        if dropout is not None:
            probs_BHLM = dropout(probs_BHLM)
        return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM, v_BMHK)

    return attend


_NUM_BLOCKS = 4  # More would skip more of the hidden half, in smaller products.


def blocked_attention(q_BLHK, k_BMHK, v_BMHK, mask_BLM):
    """Causal self-attention in blocks of queries, each computing only the keys before its end.

    The same numbers as `einsum_attention` faster on a CPU (docs/performance.md).
    """
    L, K = q_BLHK.shape[1], q_BLHK.shape[3]
    if mask_BLM is None:
        mask_BLM = jnp.tril(jnp.ones((L, L), bool))[None]
    q_BHLK = (q_BLHK * K**-0.5).transpose(0, 2, 1, 3)
    k_BHKM, v_BHMK = k_BMHK.transpose(0, 2, 3, 1), v_BMHK.transpose(0, 2, 1, 3)
    size, outputs = -(-L // _NUM_BLOCKS), []
    for end in range(size, L + size, size):
        rows, seen = slice(end - size, end), slice(0, end)
        scores_BHLM = q_BHLK[:, :, rows] @ k_BHKM[..., seen]
        scores_BHLM = jnp.where(mask_BLM[:, None, rows, seen], scores_BHLM, -1e30)
        outputs.append(jax.nn.softmax(scores_BHLM, axis=-1) @ v_BHMK[:, :, seen])
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3)


def cudnn_attention(q_BLHK, k_BMHK, v_BMHK, mask_BLM):
    """cuDNN's fused kernel: NVIDIA GPUs, 16-bit floats, no dropout; no L x L array if unmasked."""
    mask_B1LM = None if mask_BLM is None else mask_BLM[:, None]
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BMHK,
        v_BMHK,
        mask=mask_B1LM,
        is_causal=mask_BLM is None,
        implementation="cudnn",
    )


def choose_attention(name: str, *, platform: str, dtype: str, dropout: float) -> str:
    """Resolves "auto" to the fastest kernel that can do the job here; checks a name that was given.

    Raises:
      UserError: an unknown name, or a kernel that this platform, dtype or dropout rules out.
    """
    on_gpu, is_half = platform in ("gpu", "cuda"), dtype in ("bfloat16", "float16")
    no_dropout = (dropout > 0, f"it has no dropout and model.dropout={dropout}")
    obstacles = {
        "cudnn": [
            (not on_gpu, f"it needs an NVIDIA GPU and this is a {platform}"),
            (not is_half, f"it needs 16-bit floats and model.dtype={dtype}"),
            no_dropout,
        ],
        "blocked": [
            (platform != "cpu", f"it is made for CPUs and this is a {platform}"),
            (dtype != "float32", f"it needs float32 and model.dtype={dtype}"),
            no_dropout,
        ],
        "einsum": [],
    }
    reasons = {
        kernel: [r for applies, r in rules if applies] for kernel, rules in obstacles.items()
    }
    if name == "auto":
        return next(kernel for kernel in obstacles if not reasons[kernel])
    if name not in obstacles:
        raise UserError(f"model.attention={name!r} is unknown; choose auto, {', '.join(obstacles)}")
    if reasons[name]:
        raise UserError(f"model.attention={name!r} cannot run: {reasons[name][0]}; use auto")
    return name


def make_attend(name: str, dropout: nn.Module | None) -> Attend:
    """The kernel of this name, as `choose_attention` gives it."""
    fused = {"cudnn": cudnn_attention, "blocked": blocked_attention}
    return einsum_attention(dropout) if name == "einsum" else fused[name]


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2.2)."""

    num_heads: int
    head_dim: int
    attend: Attend
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array, mask_BLM: jax.Array | None) -> jax.Array:
        """B x L x D, B x L x M -> B x L x D."""
        D, heads = x_BLD.shape[-1], (self.num_heads, self.head_dim)
        q_BLHK = Dense(heads, self.in_init, self.dtype, name="query")(x_BLD)
        k_BMHK = Dense(heads, self.in_init, self.dtype, name="key")(x_BLD)
        v_BMHK = Dense(heads, self.in_init, self.dtype, name="value")(x_BLD)
        o_BLHK = self.attend(q_BLHK, k_BMHK, v_BMHK, mask_BLM)
        return Dense((D,), self.out_init, self.dtype, num_in_dims=2, name="out")(o_BLHK)
