"""Task models: the body of any family, and a head on its hidden states.

Dimension key:
  B batch    L length    E texts of a row    W words    D model width    S labels or other outputs
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models import crf
from lm.models.layers import Dense

_INIT = nn.initializers.truncated_normal(0.02)
Inputs = dict[str, Any]  # What the body takes.
# (x_BLD, length_BE) -> x_BED: one state for each text of a row, where they follow one another.
Pool = Callable[[jax.Array, jax.Array], jax.Array]


class FirstToken(nn.Module):
    """The first token's state through a dense layer with tanh (Devlin et al. 2019, `pooler`)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x_BLD: jax.Array, length_BE: jax.Array) -> jax.Array:
        """B x L x D, B x E -> B x E x D."""
        first_BE = jnp.cumsum(length_BE, axis=1) - length_BE
        x_BED = _states_at(x_BLD, first_BE)
        return jnp.tanh(Dense((x_BLD.shape[-1],), _INIT, self.dtype, name="pooler")(x_BED))


def last_token(x_BLD: jax.Array, length_BE: jax.Array) -> jax.Array:
    """Picks the states of last tokens, in a decoder alone in having seen all: -> B x E x D."""
    return _states_at(x_BLD, jnp.cumsum(length_BE, axis=1) - 1)


def _states_at(x_BLD: jax.Array, at_BE: jax.Array) -> jax.Array:
    # Where there is no text, some place or other: its weight is 0.
    at_BE = jnp.clip(at_BE, 0, x_BLD.shape[1] - 1)
    return jnp.take_along_axis(x_BLD, at_BE[:, :, None], axis=1)


def mean(x_BLD: jax.Array, length_BE: jax.Array) -> jax.Array:
    """Averages the states of a text's tokens (Ni et al. 2022, section 3): -> B x E x D."""
    at_L, end_BE = jnp.arange(x_BLD.shape[1]), jnp.cumsum(length_BE, axis=1)
    begun_BLE = at_L[None, :, None] >= (end_BE - length_BE)[:, None, :]
    weights_BLE = (begun_BLE & (at_L[None, :, None] < end_BE[:, None, :])).astype(jnp.float32)
    # In float32: a sum over a long text would lose bits in 16.
    sum_BED = jnp.einsum("BLD,BLE->BED", x_BLD.astype(jnp.float32), weights_BLE)
    mean_BED = sum_BED / jnp.maximum(length_BE, 1)[:, :, None]
    return mean_BED.astype(x_BLD.dtype)


class SequenceHead(nn.Module):
    """S numbers for each text of a row.

    pool: `FirstToken`, `last_token` or `mean`.
    """

    body: nn.Module
    pool: Pool
    num_outputs: int

    @nn.compact
    def __call__(
        self, inputs: Inputs, length_BE: jax.Array, *, deterministic: bool = True
    ) -> jax.Array:
        """Inputs of B x L, B x E lengths of texts, 0 for none -> B x E x S, float32."""
        x_BLD = self.body.hidden_states(**inputs, deterministic=deterministic)
        x_BED = self.pool(x_BLD, length_BE)
        # Float32 from here on, whatever the body computes in: losses of few numbers are sensitive.
        dropout = nn.Dropout(self.body.config.dropout, deterministic=deterministic)
        return Dense((self.num_outputs,), _INIT, jnp.dtype("float32"), name="head")(dropout(x_BED))


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
