"""GPT-2 (Radford et al. 2019), and GPT-3's dense shapes (Brown et al. 2020), which are the same
model.

Dimension key:
  B batch    L query length    M key length    D model width    P positions    V vocabulary
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models import attention, kv_cache, masks, mup
from lm.models.hyperparameters import check_hyperparameters
from lm.models.kv_cache import CachedAttend, LayerCache
from lm.models.layers import LayerNorm, LazyLogits, Mlp, embed
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.sites import Site
from lm.models.stack import stack

_EPSILON = 1e-5  # Of every LayerNorm, as in the published weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Everything needed to build a `GPT2`. No defaults: configs decide."""

    vocab_size: int
    max_len: int
    num_layers: int
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    mup_model_dim: int  # The base shape, see `lm.models.mup`; all 0 for none.
    mup_num_heads: int
    mup_head_dim: int
    mup_mlp_dim: int
    dropout: float
    dtype: str
    attention: str
    matmul: str
    remat: str
    scan_layers: bool

    def __post_init__(self):
        check_hyperparameters(self, may_be_zero=mup.FIELDS)
        mup.check(self)


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and added to the residual stream."""

    config: GPT2Config
    deterministic: bool

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, *, mask: AttentionMask | None, cached: CachedAttend | None = None
    ) -> jax.Array:
        """B x L x D -> B x L x D. `cached` takes the place of the kernel and of its mask."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)  # Parameters are float32 all the same.
        matmul = MATMULS[c.matmul]
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        in_init = nn.initializers.normal(0.02)
        # Two residual additions a layer: their variances add up over the depth (section 2.3).
        out_init = nn.initializers.normal(0.02 / (2 * c.num_layers) ** 0.5)
        # At a rate of 0 there is no module: kernels without dropout would refuse one.
        probs_dropout = dropout("probs_dropout") if c.dropout else None
        attend = cached or attention.make_attention_fn(
            c.attention, mask, dropout=probs_dropout, scale=mup.attention_scale(c)
        )

        y_BLD = LayerNorm(_EPSILON, dtype, name="attention_norm")(x_BLD)
        y_BLD = attention.Attention(
            c.num_heads, c.num_heads, c.head_dim, in_init, out_init, dtype, matmul, name="attention"
        )(y_BLD, y_BLD, attend)
        x_BLD += dropout("attention_dropout")(y_BLD)
        y_BLD = LayerNorm(_EPSILON, dtype, name="mlp_norm")(x_BLD)
        y_BLD = Mlp(c.mlp_dim, "gelu_new", in_init, out_init, dtype, matmul, name="mlp")(y_BLD)
        return x_BLD + dropout("mlp_dropout")(y_BLD)


class GPT2(nn.Module):
    """Pre-norm decoder with learned positions and a tied output."""

    config: GPT2Config

    def setup(self):
        c = self.config
        table = lambda name, rows, std: self.param(
            f"{name}_embedding", nn.initializers.normal(std), (rows, c.model_dim)
        )
        self.token_embedding = table("token", c.vocab_size, 0.02)
        self.position_embedding = table("position", c.max_len, 0.01)  # As in the published code.
        self.embedding = Site()  # The identity, by which observers find what was embedded.
        self.final_norm = LayerNorm(_EPSILON, jnp.dtype(c.dtype))

    def embed(self, tokens_BL: jax.Array, positions_BL: jax.Array) -> jax.Array:
        """Embeds tokens and positions, B x L each -> B x L x D."""
        dtype = jnp.dtype(self.config.dtype)
        x_BLD = embed(self.token_embedding, tokens_BL, dtype)
        # Positions start anew in each document of a packed row, so they are looked up, not sliced.
        return self.embedding(x_BLD + embed(self.position_embedding, positions_BL, dtype))

    @nn.compact
    def blocks(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        mask: AttentionMask | None,
        *,
        caches: list[LayerCache] | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[LayerCache]]:
        """Runs all layers: embedded tokens -> hidden states, B x L x D, normalised; the new caches.

        Args:
          x_BLD: the residual stream.
          positions_BL: of its tokens.
          mask: what they see; None with `caches`.
          caches: one a layer; the tokens are new, and see themselves and what came before them.
          deterministic: no dropout.
        """
        c, cached = self.config, None
        if caches is not None:
            cached = kv_cache.attention_fns(caches, positions_BL, scale=mup.attention_scale(c))
        x_BLD = nn.Dropout(c.dropout, deterministic=deterministic, name="dropout")(x_BLD)
        layers = stack(self, Block, deterministic=deterministic)
        x_BLD = layers(x_BLD, cached and {"cached": cached}, mask=mask)
        return self.final_norm(x_BLD), [attend.cache for attend in cached or ()]

    def hidden_states(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        prefix_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Embeds and runs all layers: B x L four times -> hidden states, B x L x D.

        Args:
          tokens_BL: token ids.
          positions_BL: each token's position in its own document.
          segment_ids_BL: which document of its row a token belongs to, 0 for padding; attention
            never crosses from one to another. None: every row is one document.
          prefix_BL: True for tokens that all of their document sees, also what precedes them.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        mask = masks.causal(segment_ids_BL, prefix_BL)
        x_BLD = self.embed(tokens_BL, positions_BL)
        return self.blocks(x_BLD, positions_BL, mask, deterministic=deterministic)[0]

    def unembed(self, x_BLD: jax.Array) -> LazyLogits:
        """Pairs hidden states, B x L x D, with the table that makes logits of them."""
        return LazyLogits(mup.for_output(self.config, x_BLD), self.token_embedding)

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        prefix_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> LazyLogits:
        """Gives `LazyLogits`, B x L x V; takes what `hidden_states` takes."""
        inputs = tokens_BL, positions_BL, segment_ids_BL, prefix_BL
        return self.unembed(self.hidden_states(*inputs, deterministic=deterministic))

    def decode_step(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, caches: list[LayerCache]
    ) -> tuple[LazyLogits, list[LayerCache]]:
        """Gives `LazyLogits` of new tokens, and the new caches; see `blocks`.

        The parameters are those of `kv_cache.unstack_for_decoding`.
        """
        x_BLD = self.embed(tokens_BL, positions_BL)
        x_BLD, caches = self.blocks(x_BLD, positions_BL, None, caches=caches)
        return self.unembed(x_BLD), caches
