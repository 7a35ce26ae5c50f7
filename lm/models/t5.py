"""T5 (Raffel et al. 2020) and T5 1.1 (Shazeer 2020; the README of the t5 repository).

Dimension key:
  B batch    L decoder length    M encoder length    D model width    H heads    V vocabulary
  R relative-position buckets
"""

import dataclasses
import functools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from lm.errors import UserError
from lm.models import attention, kv_cache, masks
from lm.models.hyperparameters import check_hyperparameters
from lm.models.kv_cache import CachedAttend, LayerCache
from lm.models.layers import Dense, GatedMlp, LazyLogits, Mlp, RmsNorm, embed
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.parameters import Params
from lm.models.sites import Site
from lm.models.stack import stack

_EPSILON = 1e-6  # Of every norm, as in the published weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Everything needed to build a `T5`. No defaults: configs decide."""

    vocab_size: int
    num_layers: int  # Of the encoder, and as many of the decoder.
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    num_buckets: int  # Of relative positions, see `relative_buckets`.
    max_distance: int  # From here on all keys are in one bucket.
    gated: bool  # The MLP is GELU-gated, as in 1.1; otherwise it is a ReLU one.
    tied_output: bool  # The output is the transposed embedding, by 1/sqrt(D), as in 1.0.
    dropout: float
    dtype: str
    attention: str
    matmul: str
    remat: str
    scan_layers: bool

    max_len: ClassVar[None] = None  # Relative positions have no end.

    def __post_init__(self):
        check_hyperparameters(self)
        if self.num_buckets < 4 or self.num_buckets % 2:
            raise UserError(f"model.num_buckets={self.num_buckets} must be even, and at least 4")
        if self.max_distance <= self.num_buckets // 2:
            raise UserError(
                f"model.max_distance={self.max_distance} must exceed half of "
                f"model.num_buckets={self.num_buckets}"
            )


def relative_buckets(
    distance_BLM: jax.Array, *, num_buckets: int, max_distance: int, causal: bool
) -> jax.Array:
    """Sorts distances from a query back to a key, B x L x M, into buckets, alike.

    Half of the buckets hold one small distance each, the rest wider and wider ranges up to
    `max_distance` (Raffel et al. 2020, section 2.1). Without `causal`, keys behind the query have
    buckets of their own.
    """
    offset_BLM = 0
    if causal:
        distance_BLM = jnp.maximum(distance_BLM, 0)  # Keys that follow the query are hidden anyway.
    else:
        num_buckets //= 2
        offset_BLM = jnp.where(distance_BLM < 0, num_buckets, 0)
        distance_BLM = jnp.abs(distance_BLM)
    num_exact = num_buckets // 2
    # 0 at the first wide bucket, 1 where the last one ends; in between as the logarithm. Clamped
    # where it is not used: no logarithm of 0.
    log_BLM = jnp.log(jnp.maximum(distance_BLM, num_exact).astype(jnp.float32) / num_exact)
    wide_BLM = log_BLM / math.log(max_distance / num_exact) * (num_buckets - num_exact)
    # Rounded towards 0, as the published weights were trained; all that is farther is in the last.
    wide_BLM = jnp.minimum(num_exact + wide_BLM.astype(int), num_buckets - 1)
    return offset_BLM + jnp.where(distance_BLM < num_exact, distance_BLM, wide_BLM)


def _attention(c: T5Config, name: str) -> attention.Attention:
    into, out = c.model_dim**-0.5, (c.num_heads * c.head_dim) ** -0.5
    return attention.Attention(
        num_heads=c.num_heads,
        num_kv_heads=c.num_heads,
        head_dim=c.head_dim,
        in_init=nn.initializers.normal(into),
        out_init=nn.initializers.normal(out),
        # The scores are not divided by sqrt(K); queries that start smaller by it make up for that.
        query_init=nn.initializers.normal(into * c.head_dim**-0.5),
        dtype=jnp.dtype(c.dtype),
        matmul=MATMULS[c.matmul],
        in_bias=False,
        out_bias=False,
        name=name,
    )


class Block(nn.Module):
    """Self-attention, attention to the encoder if there is one, and an MLP; norms come first."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        *,
        bias_HLM: jax.Array,
        mask: AttentionMask | None,
        encoded_BMD: jax.Array | None,
        cross_mask: AttentionMask | None,
        cached: CachedAttend | None = None,
        cross_cached: CachedAttend | None = None,
    ) -> jax.Array:
        """B x L x D -> B x L x D.

        Args:
          x_BLD: the residual stream.
          bias_HLM: what relative positions add to the scores of self-attention.
          mask: of self-attention.
          encoded_BMD: what the encoder gave; None in the encoder itself.
          cross_mask: of attention to it.
          cached, cross_cached: take the place of the two kernels and of their masks and bias.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        inner = lambda name: dropout(name) if c.dropout else None
        norm = lambda name: RmsNorm(_EPSILON, dtype, name=name)
        attend = functools.partial(attention.make_attention_fn, c.attention, scale=1.0)

        y_BLD = norm("attention_norm")(x_BLD)
        to_itself = cached or attend(mask, bias_HLM=bias_HLM, dropout=inner("probs_dropout"))
        y_BLD = _attention(c, "attention")(y_BLD, y_BLD, to_itself)
        x_BLD += dropout("attention_dropout")(y_BLD)
        if encoded_BMD is not None:
            y_BLD = norm("cross_norm")(x_BLD)
            # No relative positions here: those of two texts have nothing to do with each other.
            kernel = attend(cross_mask, dropout=inner("cross_probs_dropout"))
            to_encoder = cross_cached or kernel
            y_BLD = _attention(c, "cross_attention")(y_BLD, encoded_BMD, to_encoder)
            x_BLD += dropout("cross_dropout")(y_BLD)
        y_BLD = norm("mlp_norm")(x_BLD)
        mlp = GatedMlp if c.gated else functools.partial(Mlp, use_bias=False)
        y_BLD = mlp(
            mlp_dim=c.mlp_dim,
            activation="gelu_new" if c.gated else "relu",
            in_init=nn.initializers.normal(c.model_dim**-0.5),
            out_init=nn.initializers.normal(c.mlp_dim**-0.5),
            dtype=dtype,
            matmul=MATMULS[c.matmul],
            dropout=inner("hidden_dropout"),
            name="mlp",
        )(y_BLD)
        return x_BLD + dropout("mlp_dropout")(y_BLD)


@struct.dataclass
class T5LayerCache:
    """Keys and values of one layer of the decoder: of its own tokens, and of the encoder's."""

    own: LayerCache
    encoder: LayerCache
    encoder_mask_BLM: jax.Array  # B x 1 x M: which of the encoder's are no padding.


class Stack(nn.Module):
    """The encoder, or the decoder: relative positions, blocks, and a norm at the end."""

    config: T5Config
    causal: bool

    def setup(self):
        c = self.config
        init = nn.initializers.normal(c.model_dim**-0.5)
        self.relative_bias = self.param("relative_bias", init, (c.num_buckets, c.num_heads))
        self.embedding = Site()
        self.final_norm = RmsNorm(_EPSILON, jnp.dtype(c.dtype))

    def embed(self, table_VD: jax.Array, tokens_BL: jax.Array) -> jax.Array:
        """Embeds tokens: B x L -> B x L x D."""
        return self.embedding(embed(table_VD, tokens_BL, jnp.dtype(self.config.dtype)))

    @nn.compact
    def blocks(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array | None,
        mask: AttentionMask | None,
        encoded_BMD: jax.Array | None = None,
        cross_mask: AttentionMask | None = None,
        *,
        caches: list[T5LayerCache] | None = None,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[T5LayerCache]]:
        """Runs all layers: embedded tokens -> hidden states, B x L x D, normalised; the new caches.

        Args:
          x_BLD: the residual stream.
          positions_BL: with `caches`, of the new tokens; otherwise rows begin at 0.
          mask, encoded_BMD, cross_mask: see `Block`; None with `caches`.
          caches: see `GPT2.blocks`.
          deterministic: no dropout.
        """
        c = self.config
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=deterministic, name=name)
        at_M = jnp.arange(x_BLD.shape[1] if caches is None else caches[0].own.k_BGMK.shape[2])
        # A row that holds for all; with caches, each row may be as far as it likes.
        at_BL = at_M[None] if caches is None else positions_BL
        buckets_BLM = relative_buckets(
            at_BL[:, :, None] - at_M[None, None],
            num_buckets=c.num_buckets,
            max_distance=c.max_distance,
            causal=self.causal,
        )
        # One table for all layers; float32 like the scores that it is added to.
        bias_BHLM = self.relative_bias[buckets_BLM].transpose(0, 3, 1, 2)
        bias_HLM, by_layer, own = bias_BHLM[0], None, []
        if caches is not None:
            encoded_BMD = x_BLD  # Ignored: the keys and values of what was read are in the caches.
            of_own = [cache.own for cache in caches]
            own = kv_cache.attention_fns(of_own, positions_BL, bias_BHLM=bias_BHLM, scale=1.0)
            cross = [CachedAttend(x.encoder, x.encoder_mask_BLM, scale=1.0) for x in caches]
            by_layer = {"cached": own, "cross_cached": cross}
        x_BLD = stack(self, Block, deterministic=deterministic)(
            dropout("in_dropout")(x_BLD),
            by_layer,
            bias_HLM=bias_HLM,
            mask=mask,
            encoded_BMD=encoded_BMD,
            cross_mask=cross_mask,
        )
        x_BLD = dropout("out_dropout")(self.final_norm(x_BLD))
        pairs = zip(caches or [], own, strict=True)
        return x_BLD, [cache.replace(own=attend.cache) for cache, attend in pairs]

    def begin(
        self, encoded_BMD: jax.Array, encoder_segment_ids_BM: jax.Array, num_slots: int
    ) -> list[T5LayerCache]:
        """Makes the caches before the first token: what the encoder gave, and `num_slots` slots."""
        c, B, dtype = self.config, encoded_BMD.shape[0], encoded_BMD.dtype
        own = kv_cache.empty(
            B, num_slots, num_kv_heads=c.num_heads, head_dim=c.head_dim, dtype=dtype
        )
        mask_BLM = (encoder_segment_ids_BM > 0)[:, None, :]
        init, matmul = nn.initializers.zeros_init(), MATMULS[c.matmul]
        dense = Dense(
            (c.num_heads, c.head_dim), init, dtype, use_bias=False, matmul=matmul, parent=None
        )

        def of_layer(params: Params) -> T5LayerCache:
            of = params["cross_attention"]
            of_name = lambda name: dense.apply({"params": of[name]}, encoded_BMD)
            k_BMHK, v_BMHK = of_name("key"), of_name("value")
            # Once a text, in place of at every token that is written.
            heads_first = LayerCache(k_BMHK.swapaxes(1, 2), v_BMHK.swapaxes(1, 2))
            return T5LayerCache(own, heads_first, mask_BLM)

        return [of_layer(params) for params in self.get_variable("params", "layers")]


class Encoder(nn.Module):
    """The embedding and the encoder: what task models build on."""

    config: T5Config

    def setup(self):
        c = self.config
        init = nn.initializers.normal(1.0)
        self.token_embedding = self.param("token_embedding", init, (c.vocab_size, c.model_dim))
        self.encoder = Stack(c, causal=False)

    def hidden_states(
        self, tokens_BL: jax.Array, segment_ids_BL: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Reads a text: B x L twice -> hidden states, B x L x D; see `GPT2.hidden_states`."""
        x_BLD = self.encoder.embed(self.token_embedding, tokens_BL)
        mask = masks.itself(segment_ids_BL)
        return self.encoder.blocks(x_BLD, None, mask, deterministic=deterministic)[0]


class T5(nn.Module):
    """An encoder, and a decoder that attends to it. `reader` has the encoder's own methods."""

    config: T5Config

    def setup(self):
        c = self.config
        self.reader = Encoder(c)
        nn.share_scope(self, self.reader)  # Its parameters are this module's own.
        self.decoder = Stack(c, causal=True)
        if not c.tied_output:
            init = nn.initializers.normal(c.model_dim**-0.5)
            shape = (c.vocab_size, c.model_dim)
            self.output_embedding = self.param("output_embedding", init, shape)

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        """Embeds the decoder's tokens: B x L -> B x L x D."""
        return self.decoder.embed(self.reader.token_embedding, tokens_BL)

    def unembed(self, x_BLD: jax.Array) -> LazyLogits:
        """Pairs hidden states, B x L x D, with the table that makes logits of them."""
        if self.config.tied_output:
            # The embedding starts with a standard deviation of 1; this gives logits of that size.
            return LazyLogits(x_BLD * self.config.model_dim**-0.5, self.reader.token_embedding)
        return LazyLogits(x_BLD, self.output_embedding)

    def __call__(
        self,
        encoder_tokens_BM: jax.Array,
        encoder_segment_ids_BM: jax.Array,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        *,
        deterministic: bool = True,
    ) -> LazyLogits:
        """Gives `LazyLogits` of the decoder's tokens, B x L x V.

        Args:
          encoder_tokens_BM, encoder_segment_ids_BM: see `Encoder.hidden_states`.
          tokens_BL: what was written so far, behind the pad token.
          segment_ids_BL: the document that each of these belongs to; it sees that one alone.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        encoded_BMD = self.reader.hidden_states(
            encoder_tokens_BM, encoder_segment_ids_BM, deterministic=deterministic
        )
        x_BLD, _ = self.decoder.blocks(
            self.embed(tokens_BL),
            None,
            masks.causal(segment_ids_BL),
            encoded_BMD,
            AttentionMask(segment_ids_BL, encoder_segment_ids_BM),
            deterministic=deterministic,
        )
        return self.unembed(x_BLD)

    def read(
        self, encoder_tokens_BM: jax.Array, encoder_segment_ids_BM: jax.Array, num_slots: int
    ) -> list[T5LayerCache]:
        """Reads a text, B x M twice, into caches with room for `num_slots` tokens.

        The parameters are those of `kv_cache.unstack_for_decoding`, here and in `decode_step`.
        """
        encoded_BMD = self.reader.hidden_states(encoder_tokens_BM, encoder_segment_ids_BM)
        return self.decoder.begin(encoded_BMD, encoder_segment_ids_BM, num_slots)

    def decode_step(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, caches: list[T5LayerCache]
    ) -> tuple[LazyLogits, list[T5LayerCache]]:
        """See `GPT2.decode_step`."""
        x_BLD = self.embed(tokens_BL)
        x_BLD, caches = self.decoder.blocks(x_BLD, positions_BL, None, caches=caches)
        return self.unembed(x_BLD), caches
