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
from lm.models.layers import Dense, GatedMlp, Mlp, Output, RmsNorm, embed
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.parameters import Params
from lm.models.stack import stack

_EPSILON = 1e-6  # Of every norm, as in the published weights.


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Everything needed to build a `T5`. No defaults: configs decide.

    num_layers: of the encoder, and as many of the decoder.
    num_buckets, max_distance: of relative positions, which the layers of a stack share.
    gated: the MLP is GELU-gated, as in 1.1; otherwise it is a ReLU one.
    tied_output: the output is the transposed embedding, scaled by 1/sqrt(D), as in 1.0.
    """

    vocab_size: int
    num_layers: int
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    num_buckets: int
    max_distance: int
    gated: bool
    tied_output: bool
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
    distance_LM: jax.Array, *, num_buckets: int, max_distance: int, causal: bool
) -> jax.Array:
    """L x M -> the bucket of the distance from a query back to a key, of the same shape.

    Half of the buckets hold one small distance each, the rest wider and wider ranges up to
    `max_distance` (Raffel et al. 2020, section 2.1). Without `causal`, keys behind the query have
    buckets of their own.
    """
    offset_LM = 0
    if causal:
        distance_LM = jnp.maximum(distance_LM, 0)
    else:
        num_buckets //= 2
        offset_LM = jnp.where(distance_LM < 0, num_buckets, 0)
        distance_LM = jnp.abs(distance_LM)
    num_exact = num_buckets // 2
    # Clamped where it is not used: no logarithm of 0.
    log_LM = jnp.log(jnp.maximum(distance_LM, num_exact).astype(jnp.float32) / num_exact)
    wide_LM = log_LM / math.log(max_distance / num_exact) * (num_buckets - num_exact)
    wide_LM = jnp.minimum(num_exact + wide_LM.astype(int), num_buckets - 1)
    return offset_LM + jnp.where(distance_LM < num_exact, distance_LM, wide_LM)


def _attention(c: T5Config, name: str) -> attention.Attention:
    """Without biases; the scores are not scaled, which the queries' initial size makes up for."""
    into, out = c.model_dim**-0.5, (c.num_heads * c.head_dim) ** -0.5
    return attention.Attention(
        c.num_heads,
        c.num_heads,
        c.head_dim,
        nn.initializers.normal(into),
        nn.initializers.normal(out),
        jnp.dtype(c.dtype),
        MATMULS[c.matmul],
        in_bias=False,
        out_bias=False,
        query_init=nn.initializers.normal(into * c.head_dim**-0.5),
        name=name,
    )


class Block(nn.Module):
    """Self-attention, attention to the encoder if there is one, and an MLP; norms come first."""

    config: T5Config
    deterministic: bool

    @nn.compact
    def __call__(
        self,
        x_BLD,
        bias_HLM,
        seen,
        encoded_BMD=None,
        seen_of_encoder=None,
        cached=None,
        cross_cached=None,
    ):
        """B x L x D -> B x L x D, and None for the scan.

        Args:
          x_BLD: the residual stream.
          bias_HLM: what relative positions add to the scores of self-attention.
          seen: a `AttentionMask` of self-attention.
          encoded_BMD: what the encoder gave; None in the encoder itself.
          seen_of_encoder: a `AttentionMask` of attention to it.
          cached, cross_cached: take the place of the two kernels and of what they see.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        inner = lambda name: dropout(name) if c.dropout else None
        norm = lambda name: RmsNorm(_EPSILON, dtype, name=name)
        attend = functools.partial(attention.make_attention_fn, c.attention, scale=1.0)

        y_BLD = norm("attention_norm")(x_BLD)
        to_itself = cached or attend(seen, bias_HLM=bias_HLM, dropout=inner("probs_dropout"))
        y_BLD = _attention(c, "attention")(y_BLD, y_BLD, to_itself)
        x_BLD += dropout("attention_dropout")(y_BLD)
        if encoded_BMD is not None:
            y_BLD = norm("cross_norm")(x_BLD)
            kernel = attend(seen_of_encoder, dropout=inner("cross_probs_dropout"))
            to_encoder = cross_cached or kernel
            y_BLD = _attention(c, "cross_attention")(y_BLD, encoded_BMD, to_encoder)
            x_BLD += dropout("cross_dropout")(y_BLD)
        y_BLD = norm("mlp_norm")(x_BLD)
        inits = nn.initializers.normal(c.model_dim**-0.5), nn.initializers.normal(c.mlp_dim**-0.5)
        how = dict(
            dtype=dtype,
            matmul=MATMULS[c.matmul],
            dropout=inner("hidden_dropout"),
            name="mlp",
        )
        if c.gated:
            mlp = GatedMlp(c.mlp_dim, "gelu_new", *inits, **how)
        else:
            mlp = Mlp(c.mlp_dim, "relu", *inits, **how, use_bias=False)
        return x_BLD + dropout("mlp_dropout")(mlp(y_BLD)), None


class Stack(nn.Module):
    """The encoder, or the decoder: relative positions, blocks, and a norm at the end."""

    config: T5Config
    causal: bool

    @nn.compact
    def __call__(self, x_BLD, seen: AttentionMask, *encoded, deterministic):
        """B x L x D, and what `Block` takes of the encoder -> B x L x D."""
        c, L = self.config, x_BLD.shape[1]
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=deterministic, name=name)
        init = nn.initializers.normal(c.model_dim**-0.5)
        bias_RH = self.param("relative_bias", init, (c.num_buckets, c.num_heads))
        distance_LM = jnp.arange(L)[:, None] - jnp.arange(L)[None, :]
        buckets_LM = relative_buckets(
            distance_LM,
            num_buckets=c.num_buckets,
            max_distance=c.max_distance,
            causal=self.causal,
        )
        x_BLD, _ = stack(
            Block,
            num_layers=c.num_layers,
            remat=c.remat,
            scan_layers=c.scan_layers or self.is_initializing(),
            config=c,
            deterministic=deterministic,
        )(dropout("in_dropout")(x_BLD), bias_RH[buckets_LM].transpose(2, 0, 1), seen, *encoded)
        x_BLD = RmsNorm(_EPSILON, jnp.dtype(c.dtype), name="final_norm")(x_BLD)
        return dropout("out_dropout")(x_BLD)


class Encoder(nn.Module):
    """The embedding and the encoder: what task models build on."""

    config: T5Config

    def setup(self):
        c = self.config
        init = nn.initializers.normal(1.0)
        self.token_embedding = self.param("token_embedding", init, (c.vocab_size, c.model_dim))
        self.encoder = Stack(c, causal=False)

    def __call__(
        self, tokens_BL: jax.Array, segment_ids_BL: jax.Array, *, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        """B x L twice -> hidden states, B x L x D, and the embedding of tokens, V x D.

        Args:
          tokens_BL: what is read.
          segment_ids_BL: which document of its row a token belongs to, 0 for padding; attention
            never crosses from one to another.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        embed_VD = self.token_embedding
        in_BLD = embed(embed_VD, tokens_BL, jnp.dtype(self.config.dtype))
        seen = masks.itself(segment_ids_BL)
        return self.encoder(in_BLD, seen, deterministic=deterministic), embed_VD


class T5(nn.Module):
    """An encoder, and a decoder that attends to it."""

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

    def output(
        self,
        encoder_tokens_BM: jax.Array,
        encoder_segment_ids_BM: jax.Array,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        *,
        deterministic: bool = True,
    ) -> Output:
        """What the logits are made of, B x L x V.

        Args:
          encoder_tokens_BM, encoder_segment_ids_BM: see `Encoder`.
          tokens_BL: what was written so far, behind the pad token.
          segment_ids_BL: the document that each of these belongs to; it sees that one alone.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        c = self.config
        x_BMD, embed_VD = self.reader(
            encoder_tokens_BM, encoder_segment_ids_BM, deterministic=deterministic
        )
        x_BLD = self.decoder(
            embed(embed_VD, tokens_BL, x_BMD.dtype),
            masks.causal(segment_ids_BL),
            x_BMD,
            AttentionMask(segment_ids_BL, encoder_segment_ids_BM),
            deterministic=deterministic,
        )
        if c.tied_output:
            return Output(x_BLD * c.model_dim**-0.5, embed_VD)
        return Output(x_BLD, self.output_embedding)

    def __call__(self, *inputs, **more) -> jax.Array:
        """The logits, B x L x V in `config.dtype`; takes what `output` takes."""
        return self.output(*inputs, **more).logits()


@struct.dataclass
class T5LayerCache:
    """Of one layer of the decoder: its own tokens, and the encoder's.

    encoder_mask_BLM: B x 1 x M, which of these are no padding.
    """

    own: LayerCache
    encoder: LayerCache
    encoder_mask_BLM: jax.Array


def read(
    c: T5Config,
    params: Params,
    encoder_tokens_BM: jax.Array,
    encoder_segment_ids_BM: jax.Array,
    num_slots: int,
) -> list[T5LayerCache]:
    """What the decoder needs of a text, B x M twice, and room for `num_slots` tokens.

    `params` are of a `T5`, as `kv_cache.decoding_params` gives them.
    """
    of_encoder = {name: params[name] for name in ("token_embedding", "encoder")}
    x_BMD, _ = Encoder(c).apply({"params": of_encoder}, encoder_tokens_BM, encoder_segment_ids_BM)
    own = kv_cache.empty(
        x_BMD.shape[0],
        num_slots,
        num_kv_heads=c.num_heads,
        head_dim=c.head_dim,
        dtype=x_BMD.dtype,
    )
    mask_BLM = (encoder_segment_ids_BM > 0)[:, None, :]
    dense = Dense(
        (c.num_heads, c.head_dim),
        nn.initializers.zeros_init(),
        x_BMD.dtype,
        use_bias=False,
        matmul=MATMULS[c.matmul],
    )

    def of_layer(params: Params) -> T5LayerCache:
        of_name = lambda name: dense.apply({"params": params["cross_attention"][name]}, x_BMD)
        k_BMHK, v_BMHK = of_name("key"), of_name("value")
        heads_first = LayerCache(k_BMHK.swapaxes(1, 2), v_BMHK.swapaxes(1, 2))
        return T5LayerCache(own, heads_first, mask_BLM)

    return [of_layer(layer) for layer in params["decoder"]["layers"]]


def decode(
    c: T5Config,
    params: Params,
    tokens_BL: jax.Array,
    positions_BL: jax.Array,
    caches: list[T5LayerCache],
) -> tuple[jax.Array, jax.Array, list[T5LayerCache]]:
    """The decoder's hidden states for new tokens; see `gpt2.decode`. All rows are as far."""
    dtype = jnp.dtype(c.dtype)
    num_slots = caches[0].own.k_BGMK.shape[2]
    mask_BLM = kv_cache.visible(positions_BL, num_slots)
    # Rows that have stopped may stand outside; what they say is not looked at.
    distance_LM = jnp.min(positions_BL, axis=0)[:, None] - jnp.arange(num_slots)[None, :]
    bias_RH = params["decoder"]["relative_bias"]
    buckets_LM = relative_buckets(
        distance_LM, num_buckets=c.num_buckets, max_distance=c.max_distance, causal=True
    )
    bias_HLM = bias_RH[buckets_LM].transpose(2, 0, 1)
    embed_VD = jnp.asarray(params["token_embedding"], dtype)

    def layer(params, x_BLD, old):
        attend = CachedAttend(old.own, positions_BL, mask_BLM, bias_HLM=bias_HLM, scale=1.0)
        to_encoder = kv_cache.WrittenAttend(old.encoder, old.encoder_mask_BLM, scale=1.0)
        x_BLD, _ = Block(c, deterministic=True).apply(
            {"params": params}, x_BLD, None, None, x_BLD, None, attend, to_encoder
        )
        return x_BLD, old.replace(own=attend.cache)

    layers = params["decoder"]["layers"]
    x_BLD, caches = kv_cache.through_layers(layer, layers, embed_VD[tokens_BL], caches)
    final_norm = {"params": params["decoder"]["final_norm"]}
    x_BLD = RmsNorm(_EPSILON, dtype).apply(final_norm, x_BLD)
    if c.tied_output:
        return x_BLD * c.model_dim**-0.5, embed_VD, caches
    return x_BLD, jnp.asarray(params["output_embedding"], dtype), caches
