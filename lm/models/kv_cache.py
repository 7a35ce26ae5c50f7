"""Keys and values that attention has seen, so that each token is read once.

A cache has a slot for each position. The token at position p writes slot p, and sees the slots up
to p: what else is in there is overwritten before anyone sees it, so rows may be of unequal length.

Dimension key:
  B batch    L new tokens    M slots    H heads    G key/value heads    R query heads of each
  K head width
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from lm.models.blocked_matrix import BlockedMatrix, block_for_decoding
from lm.models.int8 import Int8Matrix
from lm.models.parameters import TRANSPOSED, Params, kernel_dims, transposed


@struct.dataclass
class LayerCache:
    """Keys and values of one layer; heads come before slots, so that no step has to move them."""

    k_BGMK: jax.Array
    v_BGMK: jax.Array


def empty(
    batch_size: int, num_slots: int, *, num_kv_heads: int, head_dim: int, dtype: Any
) -> LayerCache:
    """Makes a cache of B rows of M slots in which nothing was written yet."""
    zeros = jnp.zeros((batch_size, num_kv_heads, num_slots, head_dim), dtype)
    return LayerCache(zeros, zeros)


@dataclasses.dataclass
class CachedAttend:
    """An `attention.AttentionFn` on a cache; softmax and masking are those of `einsum_attention`.

    cache: of this layer; after the call the new one.
    mask_BLM: which slots a new token sees.
    slots_BL: where the keys and values of each new token are written; outside the cache they are
      dropped. None: the cache is complete, and they are ignored.
    bias_BHLM: added to the scores, if given.
    scale: of the scores; None for 1/sqrt(K).
    """

    cache: LayerCache
    mask_BLM: jax.Array
    slots_BL: jax.Array | None = None
    bias_BHLM: jax.Array | None = None
    scale: float | None = None

    def __call__(self, q_BLHK: jax.Array, k_BLGK: jax.Array, v_BLGK: jax.Array) -> jax.Array:
        """B x L x H x K, and B x L x G x K twice -> B x L x H x K."""
        if self.slots_BL is not None:  # Written before they are read: a token sees itself.
            self.cache = LayerCache(
                _write(self.cache.k_BGMK, k_BLGK, self.slots_BL),
                _write(self.cache.v_BGMK, v_BLGK, self.slots_BL),
            )
        B, L, H, K = q_BLHK.shape
        G, M = self.cache.k_BGMK.shape[1:3]
        q_BLHK = q_BLHK * (K**-0.5 if self.scale is None else self.scale)
        # Query heads by the key head that they share, in place of a copy of the cache for each.
        q_BGRLK = q_BLHK.reshape(B, L, G, H // G, K).transpose(0, 2, 3, 1, 4)
        scores_BGRLM = jnp.einsum("BGRLK,BGMK->BGRLM", q_BGRLK, self.cache.k_BGMK)
        scores_BGRLM = scores_BGRLM.astype(jnp.float32)
        if self.bias_BHLM is not None:
            scores_BGRLM = scores_BGRLM + self.bias_BHLM.reshape(B, G, H // G, L, M)
        scores_BGRLM = jnp.where(self.mask_BLM[:, None, None], scores_BGRLM, -1e30)
        probs_BGRLM = jax.nn.softmax(scores_BGRLM, axis=-1).astype(self.cache.v_BGMK.dtype)
        o_BGRLK = jnp.einsum("BGRLM,BGMK->BGRLK", probs_BGRLM, self.cache.v_BGMK)
        return o_BGRLK.transpose(0, 3, 1, 2, 4).reshape(B, L, H, K)


def attention_fns(
    caches: Sequence[LayerCache], positions_BL, *, window=0, bias_BHLM=None, scale=None
) -> list[CachedAttend]:
    """Makes each layer's, for new tokens at B x L positions: each sees the slots up to its own.

    With a window it sees the last few of them. `CachedAttend` has the other arguments.
    """
    slots_M = jnp.arange(caches[0].k_BGMK.shape[2])[None, None]
    mask_BLM = slots_M <= positions_BL[:, :, None]
    if window:
        mask_BLM &= positions_BL[:, :, None] - slots_M < window
    return [CachedAttend(cache, mask_BLM, positions_BL, bias_BHLM, scale) for cache in caches]


def unstack_for_decoding(params: Params, dtype: Any) -> Params:
    """Lays parameters out for decoding, which reads them all at every token, on this machine.

    This copies the layers, twice where `block_for_decoding` does; what came from here already is
    given back as it is.
    """
    return block_for_decoding(unstack_layers(params, dtype))


def unstack_layers(params: Params, dtype: Any) -> Params:
    """Lays parameters out for decoding on any machine.

    The layers are a list, their kernels `transposed`, and matrices of `dtype`, as they are used.
    This copies the layers; what came from here already is given back as it is.
    """

    def convert(path: tuple, tree: Any) -> Any:
        if isinstance(tree, BlockedMatrix | Int8Matrix):
            return tree
        if not isinstance(tree, dict):
            is_matrix = path[-1] == "kernel" or path[-1].endswith("_embedding")
            return jnp.asarray(tree, dtype) if is_matrix else tree
        is_decoder = "encoder" not in path  # An encoder reads once, and stays as it is.
        if "kernel" in tree and "layers" in path and is_decoder:
            kernel = jnp.asarray(tree["kernel"], dtype)
            num_in_dims = kernel_dims((*path, "kernel"), kernel.ndim).inputs
            rest = {name: x for name, x in tree.items() if name != "kernel"}
            # Mapped over the layers, which are still stacked here: N x outputs x inputs.
            return rest | {TRANSPOSED: jax.vmap(lambda x: transposed(x, num_in_dims))(kernel)}
        has_layers = "layers" in tree and is_decoder
        if has_layers and isinstance(tree["layers"], list):
            return tree
        converted = {name: convert((*path, name), child) for name, child in tree.items()}
        if has_layers:
            # A list, since slicing a layer out of a stack would copy it at every token.
            num_layers = jax.tree.leaves(tree["layers"])[0].shape[0]
            of_layer = lambda i: jax.tree.map(lambda x: x[i], converted["layers"])
            converted["layers"] = [of_layer(i) for i in range(num_layers)]
        return converted

    return convert((), params)


def _write(buffer_BGMK, new_BLGK, slots_BL):
    rows_B1 = jnp.arange(buffer_BGMK.shape[0])[:, None]
    # Two index arrays around a slice put their dimensions first: B x L x G x K.
    return buffer_BGMK.at[rows_B1, :, slots_BL].set(new_BLGK.astype(buffer_BGMK.dtype), mode="drop")
