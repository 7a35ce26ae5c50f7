"""The kernels that compute attention: (q_BLHK, k_BMGK, v_BMGK) and what is visible -> o_BLHK.

All give the numbers of `einsum_attention`, but at padding, which nothing reads. What each of them
cannot do, `lm.models.attention.choose_attention` knows.

Dimension key:
  B batch    L query length    M key length    H heads    G key/value heads    K head width
"""

import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from lm.models.masks import AttentionMask
from lm.models.sites import Site


def einsum_attention(
    q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, bias_HLM=None, scale=None, dropout=None
):
    """The reference: readable, any device, any mask, memory of B x H x L x M.

    Its probabilities, before dropout, pass the site "probs"; see `lm.models.sites`.
    """
    L, H, K = q_BLHK.shape[1:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    q_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    # Softmax in float32: bfloat16 has too few bits to normalise long rows. A finite minimum, so
    # that a row with no visible key gives numbers and not NaN.
    scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BMHK).astype(jnp.float32)
    if bias_HLM is not None:
        scores_BHLM = scores_BHLM + bias_HLM[None]
    if not visible.hides_nothing:
        mask_BLM = visible.mask_BLM(L, k_BMHK.shape[1])
        scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, -1e30)
    probs_BHLM = Site(name="probs")(_softmax(v_BMHK.dtype, scores_BHLM))
    if dropout is not None:
        probs_BHLM = dropout(probs_BHLM)
    return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM, v_BMHK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax(dtype, scores_BHLM):
    """Over the last dimension; `dtype`. It keeps what it gives, and nothing in float32."""
    return jax.nn.softmax(scores_BHLM, axis=-1).astype(dtype)


def _softmax_forward(dtype, scores_BHLM):
    probs_BHLM = _softmax(dtype, scores_BHLM)
    return probs_BHLM, probs_BHLM


def _softmax_backward(dtype, probs_BHLM, dprobs_BHLM):
    probs_BHLM, dprobs_BHLM = (x.astype(jnp.float32) for x in (probs_BHLM, dprobs_BHLM))
    mean_BHL1 = jnp.sum(probs_BHLM * dprobs_BHLM, axis=-1, keepdims=True)
    return (probs_BHLM * (dprobs_BHLM - mean_BHL1),)


_softmax.defvjp(_softmax_forward, _softmax_backward)

_NUM_BLOCKS = 4  # More would skip more of the hidden half, in smaller products.


def blocked_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, scale=None):
    """Causal self-attention in blocks of queries, each computing only the keys before its end.

    The same numbers as `einsum_attention` faster on a CPU (docs/performance.md).
    """
    assert visible.causal and visible.prefix_BM is None  # It never looks ahead.
    L, H, K = q_BLHK.shape[1:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    mask_BLM = visible.mask_BLM(L, L)
    q_BHLK = (q_BLHK * (K**-0.5 if scale is None else scale)).transpose(0, 2, 1, 3)
    k_BHKM, v_BHMK = k_BMHK.transpose(0, 2, 3, 1), v_BMHK.transpose(0, 2, 1, 3)
    size, outputs = -(-L // _NUM_BLOCKS), []
    for end in range(size, L + size, size):
        rows, seen = slice(end - size, end), slice(0, end)
        scores_BHLM = q_BHLK[:, :, rows] @ k_BHKM[..., seen]
        scores_BHLM = jnp.where(mask_BLM[:, None, rows, seen], scores_BHLM, -1e30)
        outputs.append(jax.nn.softmax(scores_BHLM, axis=-1) @ v_BHMK[:, :, seen])
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3)


def cudnn_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, **more):
    """cuDNN's fused kernel. Packed documents cost it one B x L x M array, in 16 bits.

    Causality is said by a flag, so that it skips the hidden half.
    """
    skips = visible.causal and visible.prefix_BM is None
    rest = visible.replace(causal=False) if skips else visible
    mask_BLM = None
    if not rest.hides_nothing:
        mask_BLM = rest.mask_BLM(q_BLHK.shape[1], k_BMGK.shape[1])
    return _cudnn(q_BLHK, k_BMGK, v_BMGK, mask_BLM=mask_BLM, is_causal=skips, **more)


def cudnn_lengths_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, **more):
    """cuDNN's fused kernel for rows of one document with padding at its end; no L x M array.

    A padded query gives anything finite.
    """
    assert visible.prefix_BM is None
    if visible.segment_ids_BL is not None:
        more["query_seq_lengths"] = _lengths(visible.segment_ids_BL)
        more["key_value_seq_lengths"] = _lengths(visible.segment_ids_BM)
    if visible.window:
        more["local_window_size"] = (visible.window - 1, 0)
    return _cudnn(q_BLHK, k_BMGK, v_BMGK, is_causal=visible.causal, **more)


def _cudnn(q_BLHK, k_BMGK, v_BMGK, *, bias_HLM=None, mask_BLM=None, implementation="cudnn", **more):
    """`implementation="xla"` takes the same arguments on any device, for tests."""
    L, M = q_BLHK.shape[1], k_BMGK.shape[1]
    bias_1HLM = None if bias_HLM is None else bias_HLM.astype(q_BLHK.dtype)[None]
    mask_B1LM = None if mask_BLM is None else mask_BLM[:, None]
    if (L % 2 or M % 2) and (bias_1HLM is not None or mask_B1LM is not None):
        # It does not train with arrays of odd lengths: one more query, and a key that is hidden.
        if mask_B1LM is None:
            mask_B1LM = jnp.ones((1, 1, L, M), bool)
        even = lambda x, *dims: jnp.pad(
            x, [(0, x.shape[dim] % 2 if dim in dims else 0) for dim in range(4)]
        )
        q_BLHK, k_BMGK, v_BMGK = (even(x, 1) for x in (q_BLHK, k_BMGK, v_BMGK))
        mask_B1LM = even(mask_B1LM, 2, 3)
        bias_1HLM = None if bias_1HLM is None else even(bias_1HLM, 2, 3)
    o_BLHK = jax.nn.dot_product_attention(
        q_BLHK, k_BMGK, v_BMGK, bias_1HLM, mask_B1LM, implementation=implementation, **more
    )
    return o_BLHK[:, :L]


_LANES = 128  # Of a TPU's vector registers: what the kernel's blocks are made of.


def splash_attention(
    q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, scale=None, interpret: bool = False
):
    """The fused kernel of TPUs, which reads segment ids and skips what no rule shows.

    Under `jax.set_mesh` each device computes its own rows and heads.

    Args:
      q_BLHK, k_BMGK, v_BMGK: of self-attention.
      visible: without a prefix.
      scale: of the scores; None for 1/sqrt(K).
      interpret: runs it step by step on any device, for tests.
    """
    # Imported where it is needed, since what is experimental may move.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    assert visible.prefix_BM is None
    B, L, K = q_BLHK.shape[0], q_BLHK.shape[1], q_BLHK.shape[3]
    segment_ids_BL = visible.segment_ids_BL
    if segment_ids_BL is None:
        segment_ids_BL = jnp.ones((B, L), jnp.int32)
    more = -L % _LANES  # These see each other.
    segment_ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (0, more)), constant_values=-1)
    to_heads = lambda x: jnp.pad(x, ((0, 0), (0, more), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
    block = next(size for size in (512, 384, 256, _LANES) if (L + more) % size == 0)

    def attend(q_BHLK, k_BGLK, v_BGLK, segment_ids_BL):
        # Made in here, since under `shard_map` a device has some of the heads.
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([_splash_mask(L + more, visible)] * q_BHLK.shape[1]),
            block_sizes=splash.BlockSizes(*[block] * 8),
            interpret=interpret,
        )
        segment_ids = splash.SegmentIds(segment_ids_BL, segment_ids_BL)
        return jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK, segment_ids)

    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and not mesh.are_all_axes_manual:
        rows = ("data", "fsdp") if B % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
        cut = P(rows, "tensor")
        attend = jax.shard_map(
            attend, in_specs=(cut, cut, cut, P(rows)), out_specs=cut, check_vma=False
        )
    q_BHLK = to_heads(q_BLHK) * (K**-0.5 if scale is None else scale)
    o_BHLK = attend(q_BHLK, to_heads(k_BMGK), to_heads(v_BMGK), segment_ids_BL)
    return o_BHLK.transpose(0, 2, 1, 3)[:, :L]


def _splash_mask(L: int, visible: AttentionMask):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    if visible.window:
        return splash.LocalMask((L, L), (visible.window - 1, 0), 0)
    return splash.CausalMask((L, L)) if visible.causal else splash.FullMask((L, L))


KERNELS = {
    "einsum": einsum_attention,
    "blocked": blocked_attention,
    "cudnn": cudnn_attention,
    "cudnn_lengths": cudnn_lengths_attention,
    "splash": splash_attention,
}


def _for_each_query_head(x_BMGK: jax.Array, H: int) -> jax.Array:
    """Repeats key/value heads that several query heads share (Ainslie et al. 2023)."""
    G = x_BMGK.shape[2]
    return x_BMGK if G == H else jnp.repeat(x_BMGK, H // G, axis=2)


def _lengths(segment_ids_BL: jax.Array) -> jax.Array:
    """Tokens of each row. At least 1: a row of padding that fills up a batch has no softmax."""
    return jnp.maximum(jnp.sum(segment_ids_BL > 0, axis=1, dtype=jnp.int32), 1)
