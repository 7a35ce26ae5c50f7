"""BERT (Devlin et al. 2019), and RoBERTa (Liu et al. 2019), which differs in its embeddings.

Dimension key:
  B batch    L length    D model width    P predicted positions    V vocabulary
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models import attention, masks
from lm.models.hyperparameters import check_hyperparameters
from lm.models.layers import ACTIVATIONS, Dense, LayerNorm, Mlp, Output, embed, embed_few
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.stack import stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """Everything needed to build a `BERT`. No defaults: configs decide.

    position_offset: rows of the table of positions before that of position 0; 2 in RoBERTa's files.
    num_types: kinds of segments, such as first and second sentence.
    next_sentence: there is a pooler and a next-sentence head; RoBERTa has none.
    """

    vocab_size: int
    max_len: int
    position_offset: int
    num_types: int
    num_layers: int
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    norm_epsilon: float
    next_sentence: bool
    dropout: float
    dtype: str
    attention: str
    matmul: str
    remat: str
    scan_layers: bool

    def __post_init__(self):
        check_hyperparameters(self, may_be_zero=("position_offset",))


_INIT = nn.initializers.truncated_normal(0.02)


class Block(nn.Module):
    """Attention, then an MLP, each added to the residual stream, which is then normalised."""

    config: BERTConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array, seen: AttentionMask):
        """B x L x D -> B x L x D, and None for the scan."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        probs_dropout = dropout("probs_dropout") if c.dropout else None
        how = dict(dtype=dtype, matmul=MATMULS[c.matmul])
        attend = attention.make_attention_fn(c.attention, seen, dropout=probs_dropout)

        y_BLD = attention.Attention(
            c.num_heads, c.num_heads, c.head_dim, _INIT, _INIT, **how, name="attention"
        )(x_BLD, x_BLD, attend)
        x_BLD += dropout("attention_dropout")(y_BLD)
        x_BLD = LayerNorm(c.norm_epsilon, dtype, name="attention_norm")(x_BLD)
        y_BLD = Mlp(c.mlp_dim, "gelu", _INIT, _INIT, **how, name="mlp")(x_BLD)
        x_BLD += dropout("mlp_dropout")(y_BLD)
        return LayerNorm(c.norm_epsilon, dtype, name="mlp_norm")(x_BLD), None


class Encoder(nn.Module):
    """Embeddings and blocks: what task models build on."""

    config: BERTConfig

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, jax.Array]:
        """B x L four times -> hidden states, B x L x D, and the embedding of tokens, V x D.

        Args:
          tokens_BL: token ids.
          positions_BL: each token's position in its own document.
          segment_ids_BL: which document of its row a token belongs to, 0 for padding; attention
            never crosses from one to another. None: every row is one document.
          types_BL: which sentence a token belongs to; None for the first.
          deterministic: no dropout; otherwise `apply` needs `rngs={"dropout": key}`.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        table = lambda name, rows: self.param(name, _INIT, (rows, c.model_dim))
        embed_VD = table("token_embedding", c.vocab_size)
        position_embedding = table("position_embedding", c.position_offset + c.max_len)
        type_embedding = table("type_embedding", c.num_types)
        if types_BL is None:
            types_BL = jnp.zeros_like(tokens_BL)

        x_BLD = embed(embed_VD, tokens_BL, dtype) + embed_few(type_embedding, types_BL, dtype)
        x_BLD += embed(position_embedding, positions_BL + c.position_offset, dtype)
        x_BLD = LayerNorm(c.norm_epsilon, dtype, name="embedding_norm")(x_BLD)
        x_BLD = nn.Dropout(c.dropout, deterministic=deterministic, name="dropout")(x_BLD)
        x_BLD, _ = stack(
            Block,
            num_layers=c.num_layers,
            remat=c.remat,
            scan_layers=c.scan_layers or self.is_initializing(),
            config=c,
            deterministic=deterministic,
        )(x_BLD, masks.itself(segment_ids_BL))
        return x_BLD, embed_VD


class BERT(nn.Module):
    """The encoder with the heads that it is pretrained with."""

    config: BERTConfig

    def setup(self):
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        self.encoder = Encoder(c)
        self.transform = Dense((c.model_dim,), _INIT, dtype)
        self.transform_norm = LayerNorm(c.norm_epsilon, dtype)
        self.output_bias = self.param("output_bias", nn.initializers.zeros_init(), (c.vocab_size,))
        if c.next_sentence:
            self.pooler = Dense((c.model_dim,), _INIT, dtype)
            self.next_sentence_head = Dense((2,), _INIT, dtype)

    def output(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        predict_BP: jax.Array | None = None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> Output:
        """What the logits of masked tokens are made of, B x P x V; see `Encoder`.

        `predict_BP` says which positions of each row; None for all.
        """
        c = self.config
        x_BLD, embed_VD = self.encoder(
            tokens_BL, positions_BL, segment_ids_BL, types_BL, deterministic=deterministic
        )
        if self.is_initializing() and c.next_sentence:
            self.next_sentence_head(self.pooler(x_BLD))  # So that its parameters are made.
        if predict_BP is not None:
            x_BLD = jnp.take_along_axis(x_BLD, predict_BP[:, :, None], axis=1)
        x_BLD = self.transform_norm(ACTIVATIONS["gelu"](self.transform(x_BLD)))
        return Output(x_BLD, embed_VD, self.output_bias)

    def __call__(self, *inputs, **more) -> jax.Array:
        """The logits, B x P x V in `config.dtype`; takes what `output` takes."""
        return self.output(*inputs, **more).logits()

    def next_sentence(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """B x L four times -> B x 2: whether the second sentence follows, from the first token."""
        x_BLD, _ = self.encoder(
            tokens_BL, positions_BL, segment_ids_BL, types_BL, deterministic=deterministic
        )
        return self.next_sentence_head(jnp.tanh(self.pooler(x_BLD[:, 0])))
