"""Which keys a query sees, said as a rule, from which each kernel takes what it needs.

Dimension key:
  B batch    L query length    M key length
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class AttentionMask:
    """A query sees the keys of its own document, as far as the other rules let it.

    Padding (segment 0) sees padding, so that no row of a softmax is empty.

    segment_ids_BL: which document a query belongs to; None: every row is one document.
    segment_ids_BM: the same of the keys.
    prefix_BM: True for keys that all of their document sees, also what precedes them; or None.
    causal: a query sees nothing that follows it but a prefix.
    window: a query sees this many keys, its own included; 0 for all. Only where it is causal.
    """

    segment_ids_BL: jax.Array | None
    segment_ids_BM: jax.Array | None
    prefix_BM: jax.Array | None = None
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int = struct.field(pytree_node=False, default=0)

    def mask_BLM(self, L: int, M: int) -> jax.Array:
        """B x L x M, or 1 x L x M where all rows are alike; True for what is seen."""
        distance_LM = jnp.arange(L)[:, None] - jnp.arange(M)[None, :]
        mask_BLM = (distance_LM >= 0 if self.causal else jnp.ones((L, M), bool))[None]
        if self.prefix_BM is not None:
            mask_BLM = mask_BLM | self.prefix_BM[:, None, :]
        if self.window:
            mask_BLM = mask_BLM & (distance_LM < self.window)[None]
        if self.segment_ids_BL is not None:
            same_BLM = self.segment_ids_BL[:, :, None] == self.segment_ids_BM[:, None, :]
            mask_BLM = mask_BLM & same_BLM
        return mask_BLM

    @property
    def hides_nothing(self) -> bool:
        """No array is needed: all see all."""
        return self.segment_ids_BL is None and not self.causal


def itself(segment_ids_BL: jax.Array | None, **rules) -> AttentionMask:
    """Of self-attention: the keys are the queries' own sequence. `AttentionMask` has the rules."""
    return AttentionMask(segment_ids_BL, segment_ids_BL, **rules)


def causal(
    segment_ids_BL: jax.Array | None, prefix_BL: jax.Array | None = None, window: int = 0
) -> AttentionMask:
    """What a query of a decoder may see: its own document up to itself. See `AttentionMask`."""
    return itself(segment_ids_BL, prefix_BM=prefix_BL, causal=True, window=window)
