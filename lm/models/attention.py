"""Multi-head attention, the masks that it is given, and the kernels that compute it.

Dimension key:
  B batch    L query length    M key length    D model width    H heads    G key/value heads
  K head width
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.errors import UserError
from lm.models.layers import Dense

# (q_BLHK, k_BMGK, v_BMGK) -> o_BLHK, closed over its mask and whatever else a family adds to it.
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


def causal_mask(segment_ids_BL: jax.Array, prefix_BL: jax.Array | None = None) -> jax.Array:
    """B x L -> B x L x M: what a query may see, its own document up to itself.

    Padding (segment 0) sees itself, so that no row of the softmax is empty.

    Args:
      segment_ids_BL: which document a token belongs to.
      prefix_BL: True for tokens that all of their document sees, also what precedes them.
    """
    L = segment_ids_BL.shape[1]
    seen_BLM = jnp.tril(jnp.ones((L, L), bool))[None]
    if prefix_BL is not None:
        seen_BLM = seen_BLM | prefix_BL[:, None, :]
    return seen_BLM & segment_mask(segment_ids_BL, segment_ids_BL)


def segment_mask(segment_ids_BL: jax.Array, segment_ids_BM: jax.Array) -> jax.Array:
    """B x L, B x M -> B x L x M: a query sees all keys of its own document."""
    return segment_ids_BL[:, :, None] == segment_ids_BM[:, None, :]


def einsum_attention(
    q_BLHK, k_BMGK, v_BMGK, *, mask_BLM=None, bias_HLM=None, scale=None, dropout=None
):
    """The reference: readable, any device, any mask, memory of B x H x L x M."""
    H, K = q_BLHK.shape[2:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    if mask_BLM is None:
        mask_BLM = _causal(q_BLHK.shape[1], k_BMHK.shape[1])
    q_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    # Softmax in float32: bfloat16 has too few bits to normalise long rows. A finite minimum, so
    # that a row with no visible key gives numbers and not NaN.
    scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BMHK).astype(jnp.float32)
    if bias_HLM is not None:
        scores_BHLM = scores_BHLM + bias_HLM[None]
    scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, -1e30)
    probs_BHLM = jax.nn.softmax(scores_BHLM, axis=-1).astype(v_BMHK.dtype)
    if dropout is not None:
        probs_BHLM = dropout(probs_BHLM)
    return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM, v_BMHK)


_NUM_BLOCKS = 4  # More would skip more of the hidden half, in smaller products.


def blocked_attention(q_BLHK, k_BMGK, v_BMGK, *, mask_BLM=None):
    """Causal self-attention in blocks of queries, each computing only the keys before its end.

    The same numbers as `einsum_attention` faster on a CPU (docs/performance.md).
    """
    L, H, K = q_BLHK.shape[1:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    if mask_BLM is None:
        mask_BLM = _causal(L, L)
    q_BHLK = (q_BLHK * K**-0.5).transpose(0, 2, 1, 3)
    k_BHKM, v_BHMK = k_BMHK.transpose(0, 2, 3, 1), v_BMHK.transpose(0, 2, 1, 3)
    size, outputs = -(-L // _NUM_BLOCKS), []
    for end in range(size, L + size, size):
        rows, seen = slice(end - size, end), slice(0, end)
        scores_BHLM = q_BHLK[:, :, rows] @ k_BHKM[..., seen]
        scores_BHLM = jnp.where(mask_BLM[:, None, rows, seen], scores_BHLM, -1e30)
        outputs.append(jax.nn.softmax(scores_BHLM, axis=-1) @ v_BHMK[:, :, seen])
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3)


def cudnn_attention(q_BLHK, k_BMGK, v_BMGK, *, mask_BLM=None):
    """cuDNN's fused kernel: NVIDIA GPUs, 16-bit floats, no dropout; no L x M array if unmasked."""
    mask_B1LM = None if mask_BLM is None else mask_BLM[:, None]
    return jax.nn.dot_product_attention(
        q_BLHK,
        k_BMGK,
        v_BMGK,
        mask=mask_B1LM,
        is_causal=mask_BLM is None,
        implementation="cudnn",
    )


def _causal(L: int, M: int) -> jax.Array:
    return jnp.tril(jnp.ones((L, M), bool))[None]


def _for_each_query_head(x_BMGK: jax.Array, H: int) -> jax.Array:
    """Repeats key/value heads that several query heads share (Ainslie et al. 2023)."""
    G = x_BMGK.shape[2]
    return x_BMGK if G == H else jnp.repeat(x_BMGK, H // G, axis=2)


def choose_attention(
    name: str, *, platform: str, dtype: str, dropout: float, causal: bool, biased: bool
) -> str:
    """Resolves "auto" to the fastest kernel that can do the job here; checks a name that was given.

    Args:
      name: auto, cudnn, blocked or einsum.
      platform, dtype, dropout: what it will run on, in and with.
      causal: every query sees at most what precedes it.
      biased: the family adds something to the scores.

    Raises:
      UserError: an unknown name, or a kernel that one of the others rules out.
    """
    on_gpu, is_half = platform in ("gpu", "cuda"), dtype in ("bfloat16", "float16")
    no_dropout = (dropout > 0, f"it has no dropout and model.dropout={dropout}")
    no_bias = (biased, "it adds no relative positions to the scores")
    obstacles = {
        "cudnn": [
            (not on_gpu, f"it needs an NVIDIA GPU and this is a {platform}"),
            (not is_half, f"it needs 16-bit floats and model.dtype={dtype}"),
            no_dropout,
            no_bias,
        ],
        "blocked": [
            (platform != "cpu", f"it is made for CPUs and this is a {platform}"),
            (dtype != "float32", f"it needs float32 and model.dtype={dtype}"),
            (not causal, "it lets no token see what follows it"),
            no_dropout,
            no_bias,
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


_KERNELS = {"einsum": einsum_attention, "blocked": blocked_attention, "cudnn": cudnn_attention}


def make_attend(name: str, mask_BLM: jax.Array | None, **more) -> Attend:
    """The kernel of this name, as `choose_attention` gives it.

    Args:
      name: einsum, blocked or cudnn.
      mask_BLM: None means causal: nothing else is hidden.
      **more: for einsum alone: `bias_HLM` to add to the scores, `scale` in place of 1/sqrt(K),
        `dropout` for the probabilities.
    """
    more = {key: value for key, value in more.items() if value is not None}
    return functools.partial(_KERNELS[name], mask_BLM=mask_BLM, **more)


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2)."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    in_init: nn.initializers.Initializer
    out_init: nn.initializers.Initializer
    dtype: jnp.dtype
    in_bias: bool = True
    out_bias: bool = True
    query_init: nn.initializers.Initializer | None = None  # None: as for keys and values.

    @nn.compact
    def __call__(self, x_BLD: jax.Array, y_BMD: jax.Array, attend: Attend) -> jax.Array:
        """Queries from B x L x D, keys and values from B x M x D -> B x L x D."""
        D = x_BLD.shape[-1]
        into = lambda heads, init, name: Dense(
            (heads, self.head_dim), init, self.dtype, use_bias=self.in_bias, name=name
        )
        q_BLHK = into(self.num_heads, self.query_init or self.in_init, "query")(x_BLD)
        k_BMGK = into(self.num_kv_heads, self.in_init, "key")(y_BMD)
        v_BMGK = into(self.num_kv_heads, self.in_init, "value")(y_BMD)
        o_BLHK = attend(q_BLHK, k_BMGK, v_BMGK)
        out = Dense(
            (D,), self.out_init, self.dtype, num_in_dims=2, use_bias=self.out_bias, name="out"
        )
        return out(o_BLHK)
