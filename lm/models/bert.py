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
from lm.models.layers import ACTIVATIONS, Dense, LayerNorm, LazyLogits, Mlp, embed, embed_few
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.sites import Site
from lm.models.stack import stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class BERTConfig:
    """Everything needed to build a `BERT`. No defaults: configs decide."""

    vocab_size: int
    max_len: int
    position_offset: int  # Rows of the table before that of position 0; 2 in RoBERTa's files.
    num_types: int  # Kinds of segments, such as first and second sentence.
    num_layers: int
    num_heads: int
    head_dim: int
    model_dim: int
    mlp_dim: int
    norm_epsilon: float
    next_sentence: bool  # There is a pooler and a next-sentence head; RoBERTa has none.
    dropout: float
    dtype: str
    attention: str
    matmul: str
    remat: str
    scan_layers: bool

    def __post_init__(self):
        check_hyperparameters(self, may_be_zero=("position_offset",))


_INIT = nn.initializers.truncated_normal(0.02)  # Of all weights, as in the published code.


class Block(nn.Module):
    """Attention, then an MLP, each added to the residual stream, which is then normalised."""

    config: BERTConfig
    deterministic: bool

    @nn.compact
    def __call__(self, x_BLD: jax.Array, *, mask: AttentionMask) -> jax.Array:
        """B x L x D -> B x L x D."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        matmul = MATMULS[c.matmul]
        dropout = lambda name: nn.Dropout(c.dropout, deterministic=self.deterministic, name=name)
        probs_dropout = dropout("probs_dropout") if c.dropout else None
        attend = attention.make_attention_fn(c.attention, mask, dropout=probs_dropout)

        y_BLD = attention.Attention(
            c.num_heads, c.num_heads, c.head_dim, _INIT, _INIT, dtype, matmul, name="attention"
        )(x_BLD, x_BLD, attend)
        x_BLD += dropout("attention_dropout")(y_BLD)
        # Post-norm: what the next sub-layer adds to is normalised, so there is no final norm.
        x_BLD = LayerNorm(c.norm_epsilon, dtype, name="attention_norm")(x_BLD)
        y_BLD = Mlp(c.mlp_dim, "gelu", _INIT, _INIT, dtype, matmul, name="mlp")(x_BLD)
        x_BLD += dropout("mlp_dropout")(y_BLD)
        return LayerNorm(c.norm_epsilon, dtype, name="mlp_norm")(x_BLD)


class Encoder(nn.Module):
    """Embeddings and blocks: what task models build on."""

    config: BERTConfig

    def setup(self):
        c = self.config
        table = lambda name, rows: self.param(name, _INIT, (rows, c.model_dim))
        self.token_embedding = table("token_embedding", c.vocab_size)
        self.position_embedding = table("position_embedding", c.position_offset + c.max_len)
        self.type_embedding = table("type_embedding", c.num_types)
        self.embedding_norm = LayerNorm(c.norm_epsilon, jnp.dtype(c.dtype))
        self.embedding = Site()

    def embed(
        self, tokens_BL: jax.Array, positions_BL: jax.Array, types_BL: jax.Array | None = None
    ) -> jax.Array:
        """Embeds tokens, positions and types, B x L each -> B x L x D."""
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        if types_BL is None:
            types_BL = jnp.zeros_like(tokens_BL)
        # Sums of floats depend on their order; this is that of the published code.
        x_BLD = embed(self.token_embedding, tokens_BL, dtype)
        x_BLD += embed_few(self.type_embedding, types_BL, dtype)
        x_BLD += embed(self.position_embedding, positions_BL + c.position_offset, dtype)
        return self.embedding(self.embedding_norm(x_BLD))

    @nn.compact
    def blocks(
        self, x_BLD: jax.Array, mask: AttentionMask, *, deterministic: bool = True
    ) -> jax.Array:
        """Runs all layers: embedded tokens, B x L x D -> hidden states, B x L x D."""
        dropout = nn.Dropout(self.config.dropout, deterministic=deterministic, name="dropout")
        return stack(self, Block, deterministic=deterministic)(dropout(x_BLD), mask=mask)

    def hidden_states(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Embeds and runs all layers: B x L four times -> B x L x D; see `GPT2.hidden_states`.

        `types_BL` says which sentence a token belongs to; None for the first.
        """
        x_BLD = self.embed(tokens_BL, positions_BL, types_BL)
        return self.blocks(x_BLD, masks.itself(segment_ids_BL), deterministic=deterministic)


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

    def unembed(self, x_BLD: jax.Array) -> LazyLogits:
        """Applies the head for masked tokens to hidden states, B x L x D."""
        x_BLD = self.transform_norm(ACTIVATIONS["gelu"](self.transform(x_BLD)))
        return LazyLogits(x_BLD, self.encoder.token_embedding, self.output_bias)

    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        predict_BP: jax.Array | None = None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> LazyLogits:
        """Gives `LazyLogits` of masked tokens, B x P x V; see `Encoder.hidden_states`.

        `predict_BP` says which positions of each row; None for all.
        """
        inputs = tokens_BL, positions_BL, segment_ids_BL, types_BL
        x_BLD = self.encoder.hidden_states(*inputs, deterministic=deterministic)
        if self.is_initializing() and self.config.next_sentence:
            self.next_sentence_head(self.pooler(x_BLD))  # So that its parameters are made.
        if predict_BP is not None:
            # Picked before the head: most tokens are not masked, and need no logits.
            x_BLD = jnp.take_along_axis(x_BLD, predict_BP[:, :, None], axis=1)
        return self.unembed(x_BLD)

    def next_sentence(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        segment_ids_BL: jax.Array | None,
        types_BL: jax.Array | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Scores whether the second sentence follows the first: B x L four times -> B x 2."""
        inputs = tokens_BL, positions_BL, segment_ids_BL, types_BL
        x_BLD = self.encoder.hidden_states(*inputs, deterministic=deterministic)
        return self.next_sentence_head(jnp.tanh(self.pooler(x_BLD[:, 0])))
