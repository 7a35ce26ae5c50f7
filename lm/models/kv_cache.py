"""Keys and values that attention has seen, so that each token is read once.

A cache has a slot for each position. The token at position p writes slot p, and sees the slots up
to p: what else is in there is overwritten before anyone sees it, so rows may be of unequal length.

Dimension key:
  B batch    L new tokens    M slots    G key/value heads    R query heads of each    K head width
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lm.models.parameters import TRANSPOSED, Params, kernel_dims, transposed


@struct.dataclass
class LayerCache:
    """Of one layer's attention; heads come before slots, so that no step has to move them."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array


def empty(
    batch_size: int, num_slots: int, *, num_kv_heads: int, head_dim: int, dtype: Any
) -> LayerCache:
    """A cache of B rows of M slots in which nothing was written yet."""
    zeros = jnp.zeros((batch_size, num_kv_heads, num_slots, head_dim), dtype)
    return LayerCache(zeros, zeros)


class CachedAttend:
    """An `attention.AttentionFn` on a cache, which it first writes the new keys and values into.

    `cache` is the new one after the call. Softmax and masking are those of `einsum_attention`.

    Args:
      cache: of this layer.
      slots_BL: where each new token is written; outside the cache it is dropped.
      mask_BLM: which slots a new token sees.
      bias_HLM: added to the scores, if given.
      scale: of the scores; None for 1/sqrt(K).
    """

    def __init__(self, cache: LayerCache, slots_BL, mask_BLM, *, bias_HLM=None, scale=None):
        self.cache, self._slots_BL = cache, slots_BL
        self._mask_BLM, self._bias_HLM, self._scale = mask_BLM, bias_HLM, scale

    def __call__(self, q_BLHK, k_BLGK, v_BLGK):
        self.cache = LayerCache(
            _write(self.cache.k_BGMK, k_BLGK, self._slots_BL),
            _write(self.cache.v_BGMK, v_BLGK, self._slots_BL),
        )
        return attend_to_cache(
            q_BLHK, self.cache, self._mask_BLM, bias_HLM=self._bias_HLM, scale=self._scale
        )


def attention_fns(
    caches: Sequence[LayerCache], positions_BL, *, window=0, bias_HLM=None, scale=None
) -> list[CachedAttend]:
    """Of each layer, for new tokens at B x L positions; see `CachedAttend` and `visible`."""
    mask_BLM = visible(positions_BL, caches[0].k_BGMK.shape[2], window)
    attend = lambda cache: CachedAttend(
        cache, positions_BL, mask_BLM, bias_HLM=bias_HLM, scale=scale
    )
    return [attend(cache) for cache in caches]


class WrittenAttend:
    """An `attention.AttentionFn` on a cache that is complete: it ignores what it is given.

    So the keys and values of a text that was read need not be computed again.
    """

    def __init__(self, cache: LayerCache, mask_BLM, *, scale=None):
        self.cache, self._mask_BLM, self._scale = cache, mask_BLM, scale

    def __call__(self, q_BLHK, k_BLGK, v_BLGK):
        return attend_to_cache(q_BLHK, self.cache, self._mask_BLM, scale=self._scale)


def attend_to_cache(q_BLHK, cache: LayerCache, mask_BLM, *, bias_HLM=None, scale=None):
    """As `attention.einsum_attention`, on the layout of a cache and without repeating its heads."""
    B, L, H, K = q_BLHK.shape
    G, M = cache.k_BGMK.shape[1:3]
    q_BLHK = q_BLHK * (K**-0.5 if scale is None else scale)
    q_BGRLK = q_BLHK.reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
    scores_BGRLM = jnp.einsum("BGRLK,BGMK->BGRLM", q_BGRLK, cache.k_BGMK).astype(jnp.float32)
    if bias_HLM is not None:
        scores_BGRLM = scores_BGRLM + bias_HLM.reshape(1, G, H // G, L, M)
    scores_BGRLM = jnp.where(mask_BLM[:, None, None], scores_BGRLM, -1e30)
    probs_BGRLM = jax.nn.softmax(scores_BGRLM, axis=-1).astype(cache.v_BGMK.dtype)
    o_BGRLK = jnp.einsum("BGRLM,BGMK->BGRLK", probs_BGRLM, cache.v_BGMK)
    return o_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


def visible(positions_BL: jax.Array, num_slots: int, window: int = 0) -> jax.Array:
    """B x L -> B x L x M: the slots up to a token's own; with a window, the last few of them."""
    slots_M = jnp.arange(num_slots)[None, None]
    mask_BLM = slots_M <= positions_BL[:, :, None]
    if window:
        mask_BLM &= positions_BL[:, :, None] - slots_M < window
    return mask_BLM


def unstack_for_decoding(params: Params, dtype: Any) -> Params:
    """The same parameters as decoding wants them, which reads them all at every token.

    The layers are a list in place of stacked arrays, since slicing one out of a stack would copy
    it, and their kernels are laid out as `Dense` reads few rows fastest; an encoder, which reads
    once, stays as it is. Matrices are of `dtype`, as they are used. This copies the layers; what
    came from here already is given back as it is.
    """

    def convert(path: tuple, tree: Any) -> Any:
        if not isinstance(tree, dict):
            is_matrix = path[-1] == "kernel" or path[-1].endswith("_embedding")
            return jnp.asarray(tree, dtype) if is_matrix else tree
        if "kernel" in tree and "layers" in path and "encoder" not in path:
            kernel = jnp.asarray(tree["kernel"], dtype)
            num_in_dims = kernel_dims((*path, "kernel"), kernel.ndim).inputs
            rest = {name: x for name, x in tree.items() if name != "kernel"}
            return rest | {TRANSPOSED: jax.vmap(lambda x: transposed(x, num_in_dims))(kernel)}
        has_layers = "layers" in tree and "encoder" not in path
        if has_layers and isinstance(tree["layers"], list):
            return tree
        converted = {name: convert((*path, name), child) for name, child in tree.items()}
        if has_layers:
            num_layers = jax.tree.leaves(tree["layers"])[0].shape[0]
            of_layer = lambda i: jax.tree.map(lambda x: x[i], converted["layers"])
            converted["layers"] = [of_layer(i) for i in range(num_layers)]
        return converted

    return convert((), params)


def _write(buffer_BGMK, new_BLGK, slots_BL):
    rows_B1 = jnp.arange(buffer_BGMK.shape[0])[:, None]
    # Two index arrays around a slice put their dimensions first: B x L x G x K.
    return buffer_BGMK.at[rows_B1, :, slots_BL].set(new_BLGK.astype(buffer_BGMK.dtype), mode="drop")
