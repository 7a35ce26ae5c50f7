"""Task models: the body of any family, and a head on its hidden states.

Dimension key:
  B batch    L length    W words    D model width    S labels or other outputs
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models import crf
from lm.models.layers import Dense

_INIT = nn.initializers.truncated_normal(0.02)
Inputs = dict[str, Any]  # What the body takes; `segment_ids_BL`, 1 for tokens and 0 for padding.
Pool = Callable[[jax.Array, jax.Array], jax.Array]  # (x_BLD, segment_ids_BL) -> x_BD.


class FirstToken(nn.Module):
    """The first token's state through a dense layer with tanh (Devlin et al. 2019, `pooler`)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
        """B x L x D, B x L -> B x D."""
        return jnp.tanh(Dense((x_BLD.shape[-1],), _INIT, self.dtype, name="pooler")(x_BLD[:, 0]))


def last_token(x_BLD: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
    """Picks the last token's state, in a decoder alone in having seen all: B x L x D -> B x D."""
    last_B = jnp.maximum(jnp.sum(segment_ids_BL > 0, axis=1) - 1, 0)  # Padding stands at the end.
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0]


def mean(x_BLD: jax.Array, segment_ids_BL: jax.Array) -> jax.Array:
    """Averages the states of all tokens (Ni et al. 2022, section 3): B x L x D -> B x D."""
    weights_BL = (segment_ids_BL > 0).astype(jnp.float32)
    # In float32: a sum over a long text would lose bits in 16.
    sum_BD = jnp.einsum("BLD,BL->BD", x_BLD.astype(jnp.float32), weights_BL)
    mean_BD = sum_BD / jnp.maximum(jnp.sum(weights_BL, axis=1, keepdims=True), 1.0)
    return mean_BD.astype(x_BLD.dtype)


class SequenceHead(nn.Module):
    """S numbers for a sequence.

    pool: `FirstToken`, `last_token` or `mean`.
    """

    body: nn.Module
    pool: Pool
    num_outputs: int

    @nn.compact
    def __call__(self, inputs: Inputs, *, deterministic: bool = True) -> jax.Array:
        """Inputs of B x L -> B x S, float32."""
        x_BLD = self.body.hidden_states(**inputs, deterministic=deterministic)
        x_BD = self.pool(x_BLD, inputs["segment_ids_BL"])
        # Float32 from here on, whatever the body computes in: losses of few numbers are sensitive.
        dropout = nn.Dropout(self.body.config.dropout, deterministic=deterministic)
        return Dense((self.num_outputs,), _INIT, jnp.dtype("float32"), name="head")(dropout(x_BD))


class TokenHead(nn.Module):
    """S numbers for each of some tokens."""

    body: nn.Module
    num_outputs: int

    @nn.compact
    def __call__(
        self, inputs: Inputs, at_BW: jax.Array | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Inputs of B x L -> B x W x S, float32, of the tokens at W positions; None for all."""
        x_BLD = self.body.hidden_states(**inputs, deterministic=deterministic)
        if at_BW is not None:
            x_BLD = jnp.take_along_axis(x_BLD, at_BW[:, :, None], axis=1)
        dropout = nn.Dropout(self.body.config.dropout, deterministic=deterministic)
        return Dense((self.num_outputs,), _INIT, jnp.dtype("float32"), name="head")(dropout(x_BLD))


class CRFTagger(nn.Module):
    """A `TokenHead` whose numbers are the emissions of a CRF over `labels`."""

    body: nn.Module
    labels: tuple[str, ...]
    scheme: str | None

    def setup(self):
        self.emissions = TokenHead(self.body, len(self.labels))
        nn.share_scope(self, self.emissions)  # So that its parameters are named as a TokenHead's.
        self.crf = crf.CRF(self.labels, self.scheme)

    def log_likelihood(
        self,
        inputs: Inputs,
        at_BW: jax.Array,
        tags_BW: jax.Array,
        mask_BW: jax.Array,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Inputs of B x L, B x W three times -> B: log-probability of the tags, in nats."""
        emissions_BWS = self.emissions(inputs, at_BW, deterministic=deterministic)
        return crf.log_likelihood(emissions_BWS, tags_BW, self.crf(), mask_BW)

    def best_tags(
        self, inputs: Inputs, at_BW: jax.Array, mask_BW: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Inputs of B x L, B x W twice -> B x W twice: the likeliest path (Viterbi 1967), and the
        probability that a word has its tag there, whatever the others have.
        """
        emissions_BWS = self.emissions(inputs, at_BW)
        transitions = self.crf()
        tags_BW, _ = crf.viterbi(emissions_BWS, transitions, mask_BW)
        marginals_BWS = crf.marginals(emissions_BWS, transitions, mask_BW)
        return tags_BW, jnp.take_along_axis(marginals_BWS, tags_BW[:, :, None], axis=2)[:, :, 0]
