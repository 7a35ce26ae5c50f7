"""Rules of which keys a query sees; each kernel takes of them what it needs.

Dimension key:
  B batch    L query length    M key length
"""

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class AttentionMask:
    """A query sees the keys of its own document, as far as the other rules let it.

    segment_ids_BL, segment_ids_BM: which document a query and a key belong to; None: every row is
      one document. Padding, 0, sees padding, so that no row of a softmax is empty.
    prefix_BM: True for keys that all of their document sees, also what precedes them; or None.
    causal: a query sees nothing that follows it but a prefix.
    window: a query sees this many keys, its own included; 0 for all. Only where it is causal.
    """

    segment_ids_BL: jax.Array | None
    segment_ids_BM: jax.Array | None
    prefix_BM: jax.Array | None = None
    # Static, so that a kernel may branch on them while it is traced.
    causal: bool = struct.field(pytree_node=False, default=False)
    window: int = struct.field(pytree_node=False, default=0)

    def mask_BLM(self, L: int, M: int) -> jax.Array:
        """Spells it out: B x L x M, or 1 x L x M where rows are alike; True for what is seen."""
        # By places in the row; documents lie in one piece, so a distance within one is right.
        distance_LM = jnp.arange(L)[:, None] - jnp.arange(M)[None, :]
        mask_BLM = (distance_LM >= 0 if self.causal else jnp.ones((L, M), bool))[None]
        # A prefix opens what causality hides; the window and the documents hide again.
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
        """Whether all see all, so that no array is needed."""
        return self.segment_ids_BL is None and not self.causal


def itself(segment_ids_BL: jax.Array | None, **rules) -> AttentionMask:
    """Makes the mask of self-attention, whose keys are the queries' own sequence."""
    return AttentionMask(segment_ids_BL, segment_ids_BL, **rules)


def causal(
    segment_ids_BL: jax.Array | None, prefix_BL: jax.Array | None = None, window: int = 0
) -> AttentionMask:
    """Makes the mask of a decoder: a query sees its document up to itself; see `AttentionMask`."""
    return itself(segment_ids_BL, prefix_BM=prefix_BL, causal=True, window=window)
