"""Llama (Touvron et al. 2023) and the decoders of its shape: Mistral, Qwen2, SmolLM2.

Dimension key:
  B batch    L query length    M key length    D model width    H heads    K head width
  V vocabulary
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.errors import UserError
from lm.models import attention, kv_cache, masks, mup
from lm.models.hyperparameters import check_hyperparameters
from lm.models.kv_cache import CachedAttend, LayerCache
from lm.models.layers import GatedMlp, LazyLogits, RmsNorm, embed
from lm.models.masks import AttentionMask
from lm.models.matmuls import MATMULS
from lm.models.sites import Site
from lm.models.stack import stack


@dataclasses.dataclass(frozen=True, kw_only=True)
class LlamaConfig:
    """Everything needed to build a `Llama`. No defaults: configs decide."""

    vocab_size: int
    max_len: int
    num_layers: int
    num_heads: int
    num_kv_heads: int  # Each is shared by as many query heads (Ainslie et al. 2023).
    head_dim: int
    model_dim: int
    mlp_dim: int
    mup_model_dim: int  # The base shape, see `lm.models.mup`; all 0 for none.
    mup_num_heads: int
    mup_head_dim: int
    mup_mlp_dim: int
    rope_theta: float  # Base of the wavelengths of rotary positions.
    rope_factor: float  # 1, or by how much Llama 3.1 stretches the long wavelengths.
    rope_low_freq: float  # This and the next two say which are long: see `rotary_frequencies`.
    rope_high_freq: float
    rope_original_len: int
    norm_epsilon: float
    qkv_bias: bool  # Queries, keys and values have biases, as in Qwen2.
    tied_output: bool  # The output is the transposed embedding.
    window: int  # A token sees this many, itself included, as in Mistral; 0 for all.
    dtype: str
    attention: str
    matmul: str
    remat: str
    scan_layers: bool

    dropout: ClassVar[float] = 0.0  # It has none.

    def __post_init__(self):
        check_hyperparameters(self, may_be_zero=("window", "rope_original_len", *mup.FIELDS))
        mup.check(self)
        if self.head_dim % 2:
            raise UserError(f"model.head_dim={self.head_dim} must be even: positions rotate pairs")
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"model.num_kv_heads={self.num_kv_heads} does not divide "
                f"model.num_heads={self.num_heads}"
            )
        if self.window < 0 or self.rope_factor < 1:
            raise UserError(
                f"model.window={self.window} must be 0 or more, and "
                f"model.rope_factor={self.rope_factor} 1 or more"
            )


_EMBED_INIT = nn.initializers.normal(0.02)


def rotary_frequencies(c: LlamaConfig) -> jax.Array:
    """Gives the radians a position of each of K/2 pairs (Su et al. 2021, section 3.2.2).

    With `rope_factor` above 1, pairs that turn less than `rope_low_freq` times in
    `rope_original_len` positions turn slower by that factor, those that turn more than
    `rope_high_freq` times as they were, and those between in proportion (Llama 3.1's model card).
    """
    # Float32 throughout: in bfloat16, neighbours at position 1000 would have the same angle.
    frequencies = c.rope_theta ** -(jnp.arange(0, c.head_dim, 2, dtype=jnp.float32) / c.head_dim)
    if c.rope_factor == 1:
        return frequencies
    turns = c.rope_original_len * frequencies / (2 * math.pi)
    kept = (turns - c.rope_low_freq) / (c.rope_high_freq - c.rope_low_freq)
    kept = jnp.clip(kept, 0.0, 1.0)  # 0 for long wavelengths, 1 for short ones.
    return frequencies * (kept + (1 - kept) / c.rope_factor)


def rotate(x_BLHK: jax.Array, cos_BLK: jax.Array, sin_BLK: jax.Array) -> jax.Array:
    """Turns each pair (x[i], x[i + K/2]) by its angle; cosines and sines are B x L x K/2."""
    # Halves and not neighbours as in the paper: so are the weights of `transformers` laid out.
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos_BLK[:, :, None], sin_BLK[:, :, None]
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x_BLHK.dtype)


class Block(nn.Module):
    """Attention, then a gated MLP, each behind a norm and added to the residual stream."""

    config: LlamaConfig

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        *,
        mask: AttentionMask | None,
        cos_BLK: jax.Array,
        sin_BLK: jax.Array,
        cached: CachedAttend | None = None,
    ) -> jax.Array:
        """B x L x D, and angles of B x L x K/2 -> B x L x D.

        `cached` takes the place of the kernel and of its mask.
        """
        c, dtype = self.config, jnp.dtype(self.config.dtype)
        shared = dict(
            in_init=nn.initializers.normal(0.02),
            # As in GPT-2: two residual additions a layer, whose variances add up over the depth.
            out_init=nn.initializers.normal(0.02 / (2 * c.num_layers) ** 0.5),
            dtype=dtype,
            matmul=MATMULS[c.matmul],
        )
        kernel = cached or attention.make_attention_fn(
            c.attention, mask, scale=mup.attention_scale(c)
        )

        def attend(q_BLHK, k_BMGK, v_BMGK):
            # Before the kernel, so that a cache holds keys that are turned already.
            q_BLHK, k_BMGK = (rotate(x, cos_BLK, sin_BLK) for x in (q_BLHK, k_BMGK))
            return kernel(q_BLHK, k_BMGK, v_BMGK)

        y_BLD = RmsNorm(c.norm_epsilon, dtype, name="attention_norm")(x_BLD)
        heads = c.num_heads, c.num_kv_heads, c.head_dim
        x_BLD += attention.Attention(
            *heads, **shared, in_bias=c.qkv_bias, out_bias=False, name="attention"
        )(y_BLD, y_BLD, attend)
        y_BLD = RmsNorm(c.norm_epsilon, dtype, name="mlp_norm")(x_BLD)
        return x_BLD + GatedMlp(c.mlp_dim, "silu", **shared, name="mlp")(y_BLD)


class OutputEmbedding(nn.Module):
    """The table of an output that is not tied, made where it is used: task models have none."""

    config: LlamaConfig

    @nn.compact
    def __call__(self) -> jax.Array:
        """V x D."""
        shape = self.config.vocab_size, self.config.model_dim
        return self.param("output_embedding", _EMBED_INIT, shape)


class Llama(nn.Module):
    """Pre-norm decoder with rotary positions."""

    config: LlamaConfig

    def setup(self):
        c = self.config
        shape = c.vocab_size, c.model_dim
        self.token_embedding = self.param("token_embedding", _EMBED_INIT, shape)
        self.embedding = Site()
        self.final_norm = RmsNorm(c.norm_epsilon, jnp.dtype(c.dtype))
        self.untied_output = OutputEmbedding(c)
        nn.share_scope(self, self.untied_output)  # Its parameter is this module's own.

    def embed(self, tokens_BL: jax.Array) -> jax.Array:
        """Embeds tokens: B x L -> B x L x D."""
        return self.embedding(embed(self.token_embedding, tokens_BL, jnp.dtype(self.config.dtype)))

    @nn.compact
    def blocks(
        self,
        x_BLD: jax.Array,
        positions_BL: jax.Array,
        mask: AttentionMask | None,
        *,
        caches: list[LayerCache] | None = None,
    ) -> tuple[jax.Array, list[LayerCache]]:
        """See `GPT2.blocks`."""
        c, cached = self.config, None
        if caches is not None:
            cached = kv_cache.attention_fns(
                caches, positions_BL, window=c.window, scale=mup.attention_scale(c)
            )
        # Once for all layers; positions start anew in each document, so rows differ.
        angles_BLK = positions_BL[:, :, None] * rotary_frequencies(c)[None, None]
        x_BLD = stack(self, Block)(
            x_BLD,
            cached and {"cached": cached},
            mask=mask,
            cos_BLK=jnp.cos(angles_BLK),
            sin_BLK=jnp.sin(angles_BLK),
        )
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
        """Embeds and runs all layers: B x L four times -> B x L x D; see `GPT2.hidden_states`.

        There is no dropout, so `deterministic` changes nothing.
        """
        mask = masks.causal(segment_ids_BL, prefix_BL, self.config.window)
        return self.blocks(self.embed(tokens_BL), positions_BL, mask)[0]

    def unembed(self, x_BLD: jax.Array) -> LazyLogits:
        """Pairs hidden states, B x L x D, with the table that makes logits of them."""
        tied = self.config.tied_output
        unembed_VD = self.token_embedding if tied else self.untied_output()
        return LazyLogits(mup.for_output(self.config, x_BLD), unembed_VD)

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
        """See `GPT2.decode_step`."""
        x_BLD, caches = self.blocks(self.embed(tokens_BL), positions_BL, None, caches=caches)
        return self.unembed(x_BLD), caches
