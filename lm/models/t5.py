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

from lm.models import attention
from lm.models.checks import check_hyperparameters
from lm.models.layers import GatedMlp, Mlp, RmsNorm
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
    remat: str
    scan_layers: bool

    max_len: ClassVar[None] = None  # Relative positions have no end.

    def __post_init__(self):
        check_hyperparameters(self)


def relative_buckets(
    L: int, M: int, *, num_buckets: int, max_distance: int, causal: bool
) -> jax.Array:
    """L x M -> the bucket of the distance from a query to a key.

    Half of the buckets hold one small distance each, the rest wider and wider ranges up to
    `max_distance` (Raffel et al. 2020, section 2.1). Without `causal`, keys behind the query have
    buckets of their own.
    """
    distance_LM = jnp.arange(L)[:, None] - jnp.arange(M)[None, :]
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
    def __call__(self, x_BLD, bias_HLM, mask_BLM, encoded_BMD=None, cross_mask_BLM=None):
        """B x L x D -> B x L x D, and None for the scan.

        Args:
          x_BLD: the residual stream.
          bias_HLM: what relative positions add to the scores of self-attention.
          mask_BLM: of self-attention.
          encoded_BMD: what the encoder gave; None in the encoder itself.
          cross_mask_BLM: of attention to it.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        inner = lambda name: dropout(name) if c.dropout else None
        norm = lambda name: RmsNorm(_EPSILON, dtype, name=name)
        attend = functools.partial(attention.make_attend, c.attention, scale=1.0)

        y_BLD = norm("attention_norm")(x_BLD)
        to_itself = attend(mask_BLM, bias_HLM=bias_HLM, dropout=inner("probs_dropout"))
        y_BLD = _attention(c, "attention")(y_BLD, y_BLD, to_itself)
        x_BLD += dropout("attention_dropout")(y_BLD)
        if encoded_BMD is not None:
            y_BLD = norm("cross_norm")(x_BLD)
            to_encoder = attend(cross_mask_BLM, dropout=inner("cross_probs_dropout"))
            y_BLD = _attention(c, "cross_attention")(y_BLD, encoded_BMD, to_encoder)
            x_BLD += dropout("cross_dropout")(y_BLD)
        y_BLD = norm("mlp_norm")(x_BLD)
        inits = nn.initializers.normal(c.model_dim**-0.5), nn.initializers.normal(c.mlp_dim**-0.5)
        hidden_dropout = inner("hidden_dropout")
        if c.gated:
            mlp = GatedMlp(c.mlp_dim, "gelu_new", *inits, dtype, dropout=hidden_dropout, name="mlp")
        else:
            mlp = Mlp(
                c.mlp_dim,
                "relu",
                *inits,
                dtype,
                use_bias=False,
                dropout=hidden_dropout,
                name="mlp",
            )
        return x_BLD + dropout("mlp_dropout")(mlp(y_BLD)), None


class Stack(nn.Module):
    """The encoder, or the decoder: relative positions, blocks, and a norm at the end."""

    config: T5Config
    causal: bool

    @nn.compact
    def __call__(self, x_BLD, mask_BLM, *encoded, deterministic):
        """B x L x D, B x L x L, and what `Block` takes of the encoder -> B x L x D."""
        c, L = self.config, x_BLD.shape[1]
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=deterministic, name=name)
        init = nn.initializers.normal(c.model_dim**-0.5)
        bias_RH = self.param("relative_bias", init, (c.num_buckets, c.num_heads))
        buckets_LM = relative_buckets(
            L, L, num_buckets=c.num_buckets, max_distance=c.max_distance, causal=self.causal
        )
        x_BLD, _ = stack(
            Block,
            num_layers=c.num_layers,
            remat=c.remat,
            scan_layers=c.scan_layers,
            config=c,
            deterministic=deterministic,
        )(dropout("in_dropout")(x_BLD), bias_RH[buckets_LM].transpose(2, 0, 1), mask_BLM, *encoded)
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

    def embedding(self) -> jax.Array:
        """V x D in `config.dtype`."""
        return jnp.asarray(self.token_embedding, jnp.dtype(self.config.dtype))

    def __call__(
        self, tokens_BM: jax.Array, segment_ids_BM: jax.Array, *, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        """B x M twice -> hidden states, B x M x D, and the embedding of tokens, V x D.

        Args:
          tokens_BM: what is read.
          segment_ids_BM: which document of its row a token belongs to, 0 for padding; attention
            never crosses from one to another.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        embed_VD = self.embedding()
        mask_BMM = attention.segment_mask(segment_ids_BM, segment_ids_BM)
        return self.encoder(embed_VD[tokens_BM], mask_BMM, deterministic=deterministic), embed_VD


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

    def __call__(
        self,
        encoder_tokens_BM: jax.Array,
        encoder_segment_ids_BM: jax.Array,
        tokens_BL: jax.Array,
        segment_ids_BL: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """B x M twice, B x L twice -> logits, B x L x V in `config.dtype`.

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
            embed_VD[tokens_BL],
            attention.causal_mask(segment_ids_BL),
            x_BMD,
            attention.segment_mask(segment_ids_BL, encoder_segment_ids_BM),
            deterministic=deterministic,
        )
        if c.tied_output:
            x_BLD = x_BLD * c.model_dim**-0.5
        else:
            embed_VD = jnp.asarray(self.output_embedding, x_BLD.dtype)
        return jnp.einsum("BLD,VD->BLV", x_BLD, embed_VD)
