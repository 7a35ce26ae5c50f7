"""The kernels that compute attention: (q_BLHK, k_BMGK, v_BMGK) and what is visible -> o_BLHK.

All give the numbers of `einsum_attention`, except at padding, which nothing reads.
`lm.models.attention.choose_attention` knows what each of them cannot do.

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
    """Computes the reference: readable, any device, any mask, memory of B x H x L x M.

    Its probabilities, before dropout, pass the site "probs"; see `lm.models.sites`.
    """
    L, H, K = q_BLHK.shape[1:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    q_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    # Softmax in float32: bfloat16 has too few bits to normalise long rows.
    scores_BHLM = jnp.einsum("BLHK,BMHK->BHLM", q_BLHK, k_BMHK).astype(jnp.float32)
    if bias_HLM is not None:
        scores_BHLM = scores_BHLM + bias_HLM[None]
    if not visible.hides_nothing:
        mask_BLM = visible.mask_BLM(L, k_BMHK.shape[1])
        # Finite, so that a row with no visible key gives numbers and not NaN; and set after the
        # bias, which could lift it.
        scores_BHLM = jnp.where(mask_BLM[:, None], scores_BHLM, -1e30)
    probs_BHLM = Site(name="probs")(_softmax(v_BMHK.dtype, scores_BHLM))
    if dropout is not None:
        probs_BHLM = dropout(probs_BHLM)
    return jnp.einsum("BHLM,BMHK->BLHK", probs_BHLM, v_BMHK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _softmax(dtype, scores_BHLM):
    """Softmax over the last dimension, in float32; the result is of `dtype`."""
    return jax.nn.softmax(scores_BHLM, axis=-1).astype(dtype)


def _softmax_forward(dtype, scores_BHLM):
    # Keeps what it gives: autodiff would keep a float32 array of B x H x L x M besides.
    probs_BHLM = _softmax(dtype, scores_BHLM)
    return probs_BHLM, probs_BHLM


def _softmax_backward(dtype, probs_BHLM, dprobs_BHLM):
    # ds = p (dp - sum over M of p dp), in float32 because of the sum.
    probs_BHLM, dprobs_BHLM = (x.astype(jnp.float32) for x in (probs_BHLM, dprobs_BHLM))
    mean_BHL1 = jnp.sum(probs_BHLM * dprobs_BHLM, axis=-1, keepdims=True)
    return (probs_BHLM * (dprobs_BHLM - mean_BHL1),)


_softmax.defvjp(_softmax_forward, _softmax_backward)

_NUM_BLOCKS = 4  # More would skip more of the hidden half, in smaller products.


def blocked_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, scale=None):
    """Computes causal self-attention in blocks of queries, each with only the keys before its end.

    The same numbers as `einsum_attention` faster on a CPU (docs/performance.md).
    """
    assert visible.causal and visible.prefix_BM is None  # Keys behind a block are never read.
    L, H, K = q_BLHK.shape[1:]
    k_BMHK, v_BMHK = _for_each_query_head(k_BMGK, H), _for_each_query_head(v_BMGK, H)
    mask_BLM = visible.mask_BLM(L, L)
    # Heads first and K x M: plain products of matrices, without a transpose in every block.
    q_BHLK = (q_BLHK * (K**-0.5 if scale is None else scale)).transpose(0, 2, 1, 3)
    k_BHKM, v_BHMK = k_BMHK.transpose(0, 2, 3, 1), v_BMHK.transpose(0, 2, 1, 3)
    size, outputs = -(-L // _NUM_BLOCKS), []  # Rounded up; the last block may be shorter.
    for end in range(size, L + size, size):
        rows, seen = slice(end - size, end), slice(0, end)
        scores_BHLM = q_BHLK[:, :, rows] @ k_BHKM[..., seen]
        scores_BHLM = jnp.where(mask_BLM[:, None, rows, seen], scores_BHLM, -1e30)
        outputs.append(jax.nn.softmax(scores_BHLM, axis=-1) @ v_BHMK[:, :, seen])
    return jnp.concatenate(outputs, axis=2).transpose(0, 2, 1, 3)


def cudnn_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, **more):
    """Calls cuDNN's fused kernel. Packed documents cost it one B x L x M array, in 16 bits."""
    # Causality is a flag and no array, so that the kernel skips the hidden half.
    skips = visible.causal and visible.prefix_BM is None
    rest = visible.replace(causal=False) if skips else visible
    mask_BLM = None
    if not rest.hides_nothing:
        mask_BLM = rest.mask_BLM(q_BLHK.shape[1], k_BMGK.shape[1])
    return _cudnn(q_BLHK, k_BMGK, v_BMGK, mask_BLM=mask_BLM, is_causal=skips, **more)


def cudnn_lengths_attention(q_BLHK, k_BMGK, v_BMGK, *, visible: AttentionMask, **more):
    """Calls cuDNN's kernel for rows of one document with padding at its end; no L x M array.

    A padded query gives anything finite.
    """
    assert visible.prefix_BM is None
    # At least 1 token: a row of padding that fills up a batch would have no softmax.
    lengths = lambda ids_BL: jnp.maximum(jnp.sum(ids_BL > 0, axis=1, dtype=jnp.int32), 1)
    if visible.segment_ids_BL is not None:
        more["query_seq_lengths"] = lengths(visible.segment_ids_BL)
        more["key_value_seq_lengths"] = lengths(visible.segment_ids_BM)
    if visible.window:
        more["local_window_size"] = (visible.window - 1, 0)  # To the left, besides the key itself.
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
    """Calls the fused kernel of TPUs, which reads segment ids and skips blocks that are hidden.

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
    # Rows are filled up to whole blocks with a segment of its own, whose tokens see each other.
    fill = -L % _LANES
    segment_ids_BL = jnp.pad(segment_ids_BL, ((0, 0), (0, fill)), constant_values=-1)
    to_heads = lambda x: jnp.pad(x, ((0, 0), (0, fill), (0, 0), (0, 0))).transpose(0, 2, 1, 3)
    block = next(size for size in (512, 384, 256, _LANES) if (L + fill) % size == 0)
    shape = (L + fill, L + fill)
    if visible.window:
        mask = splash.LocalMask(shape, (visible.window - 1, 0), offset=0)
    else:
        mask = splash.CausalMask(shape) if visible.causal else splash.FullMask(shape)

    def attend(q_BHLK, k_BGLK, v_BGLK, segment_ids_BL):
        # Made in here, since under `shard_map` a device has some of the heads.
        kernel = splash.make_splash_mha_single_device(
            splash.MultiHeadMask([mask] * q_BHLK.shape[1]),
            block_sizes=splash.BlockSizes(*[block] * 8),
            interpret=interpret,
        )
        segment_ids = splash.SegmentIds(segment_ids_BL, segment_ids_BL)
        return jax.vmap(kernel)(q_BHLK, k_BGLK, v_BGLK, segment_ids)

    # XLA cannot divide a kernel that it did not make: each device is given its rows and heads.
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.size > 1 and not mesh.are_all_axes_manual:
        rows = ("data", "fsdp") if B % (mesh.shape["data"] * mesh.shape["fsdp"]) == 0 else None
        heads = P(rows, "tensor")
        specs = (heads, heads, heads, P(rows))
        attend = jax.shard_map(attend, in_specs=specs, out_specs=heads, check_vma=False)
    q_BHLK = to_heads(q_BLHK) * (K**-0.5 if scale is None else scale)
    o_BHLK = attend(q_BHLK, to_heads(k_BMGK), to_heads(v_BMGK), segment_ids_BL)
    return o_BHLK.transpose(0, 2, 1, 3)[:, :L]


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
