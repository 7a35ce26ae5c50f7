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
from lm.models.layers import LayerNorm, Mlp, Output, embed
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.parameters import Params
from lm.models.stack import stack

_EPSILON = 1e-5  # Of every LayerNorm, as in the published weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPT2Config:
    """Everything needed to build a `GPT2`. No defaults: configs decide.

    mup_*: the base shape of muP, see `lm.models.mup`; all 0 for the standard parametrisation.
    """

    vocab_size: int
    max_len: int
    num_layers: int
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    mup_model_dim: int
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
        self, x_BLD: jax.Array, seen: AttentionMask | None, cached: CachedAttend | None = None
    ):
        """B x L x D -> B x L x D, and None for the scan.

        `cached` takes the place of the kernel and of what is seen.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        in_init = nn.initializers.normal(0.02)
        # Two residual additions a layer: their variances add up over the depth (section 2.3).
        out_init = nn.initializers.normal(0.02 / (2 * c.num_layers) ** 0.5)
        probs_dropout = dropout("probs_dropout") if c.dropout else None
        how = dict(dtype=dtype, matmul=MATMULS[c.matmul])
        attend = cached or attention.make_attention_fn(
            c.attention, seen, dropout=probs_dropout, scale=mup.attention_scale(c)
        )

        y_BLD = LayerNorm(_EPSILON, dtype, name="attention_norm")(x_BLD)
        y_BLD = attention.Attention(
            c.num_heads, c.num_heads, c.head_dim, in_init, out_init, **how, name="attention"
        )(y_BLD, y_BLD, attend)
        x_BLD += dropout("attention_dropout")(y_BLD)
        y_BLD = LayerNorm(_EPSILON, dtype, name="mlp_norm")(x_BLD)
        y_BLD = Mlp(c.mlp_dim, "gelu_new", in_init, out_init, **how, name="mlp")(y_BLD)
        return x_BLD + dropout("mlp_dropout")(y_BLD), None


class Decoder(nn.Module):
    """Embeddings, blocks and the final norm: what task models build on."""

    config: GPT2Config

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        prefix_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """B x L three times -> hidden states, B x L x D, and the embedding of tokens, V x D.

        Args:
          tokens_BL: token ids.
          positions_BL: each token's position in its own document.
          segment_ids_BL: which document of its row a token belongs to, 0 for padding; attention
            never crosses from one to another. None: every row is one document.
          prefix_BL: True for tokens that all of their document sees, also what precedes them.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        token_init, position_init = nn.initializers.normal(0.02), nn.initializers.normal(0.01)
        embed_VD = self.param("token_embedding", token_init, (c.vocab_size, c.model_dim))
        embed_PD = self.param("position_embedding", position_init, (c.max_len, c.model_dim))

        x_BLD = embed(embed_VD, tokens_BL, dtype) + embed(embed_PD, positions_BL, dtype)
        x_BLD = nn.Dropout(c.dropout, deterministic=deterministic, name="dropout")(x_BLD)
        x_BLD, _ = stack(
            Block,
            num_layers=c.num_layers,
            remat=c.remat,
            scan_layers=c.scan_layers or self.is_initializing(),
            config=c,
            deterministic=deterministic,
        )(x_BLD, masks.causal(segment_ids_BL, prefix_BL))
        return LayerNorm(_EPSILON, dtype, name="final_norm")(x_BLD), embed_VD


class GPT2(nn.Module):
    """Pre-norm decoder with learned positions and a tied output."""

    config: GPT2Config

    @nn.compact
    def output(self, *inputs, **more) -> Output:
        """What the logits are made of; takes what `Decoder` takes."""
        decoder = Decoder(self.config)
        nn.share_scope(self, decoder)  # Its parameters are this module's own.
        x_BLD, embed_VD = decoder(*inputs, **more)
        return Output(mup.for_output(self.config, x_BLD), embed_VD)

    def __call__(self, *inputs, **more) -> jax.Array:
        """The logits, B x L x V in `config.dtype`; takes what `Decoder` takes."""
        return self.output(*inputs, **more).logits()


def decode(
    c: GPT2Config,
    params: Params,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    caches: list[LayerCache],
) -> tuple[jax.Array, jax.Array, list[LayerCache]]:
    """What `GPT2.output` makes of new tokens, given what came before them.

    Args:
      c: of the model.
      params: of a `GPT2`, as `kv_cache.decoding_params` gives them.
      tokens_BL, positions_BL: the new tokens; a position outside the caches leaves no trace there.
      caches: of each layer.

    Returns:
      Hidden states, B x L x D; the output embedding, V x D; the new caches.
    """
    dtype = jnp.dtype(c.dtype)
    embed_VD, embed_PD = (
        jnp.asarray(params[name], dtype) for name in ("token_embedding", "position_embedding")
    )
    x_BLD = embed_VD[tokens_BL] + embed_PD[positions_BL]
    mask_BLM = kv_cache.visible(positions_BL, caches[0].k_BGMK.shape[2])

    def layer(params, x_BLD, old):
        attend = CachedAttend(old, positions_BL, mask_BLM, scale=mup.attention_scale(c))
        x_BLD, _ = Block(c, deterministic=True).apply({"params": params}, x_BLD, None, attend)
        return x_BLD, attend.cache

    x_BLD, caches = kv_cache.through_layers(layer, params["layers"], x_BLD, caches)
    x_BLD = LayerNorm(_EPSILON, dtype).apply({"params": params["final_norm"]}, x_BLD)
    return mup.for_output(c, x_BLD), embed_VD, caches
