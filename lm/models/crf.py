"""A linear-chain conditional random field over tags (Lafferty et al. 2001), in log space.

The score of a path is the sum of its emissions and its transitions. All arithmetic is float32. A
mask is True for real words; padding stands only at the end of a row, and a row of nothing but
padding scores 0.

Dimension key: B batch, L length, S tag, T next tag
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.data.tags import split_tag

# What a forbidden step scores. Finite, so that no row can give NaN; so low that no emissions make
# up for it. A gold path with such a step has a likelihood that is absurd, yet its gradient is not.
FORBIDDEN = -1e30


class Transitions(NamedTuple):
    """Scores of each tag as the first, after another, and as the last; or what is allowed there.

    transition_ST: of T right after S.
    """

    start_S: jax.Array | np.ndarray
    transition_ST: jax.Array | np.ndarray
    end_S: jax.Array | np.ndarray


def log_partition(emissions_BLS: jax.Array, scores: Transitions, mask_BL: jax.Array) -> jax.Array:
    """Sums the exponentials of all paths' scores, B x L x S -> B: their log, in nats.

    The forward algorithm (Rabiner 1989, eq. 19 to 21).
    """

    @jax.checkpoint  # Keeps B x S of each word for the gradient, in place of B x S x T.
    def step(alpha_BS, word):
        emissions_BT, mask_B = word
        scores_BST = alpha_BS[:, :, None] + scores.transition_ST[None]
        next_BT = jax.nn.logsumexp(scores_BST, axis=1) + emissions_BT
        # Padding hands on what the last word had, so that one sum over S ends rows of any length.
        return jnp.where(mask_B[:, None], next_BT, alpha_BS), None

    first_BS, rest = _first_and_rest(emissions_BLS, mask_BL)
    alpha_BS, _ = jax.lax.scan(step, scores.start_S[None] + first_BS, rest)
    return jnp.where(mask_BL[:, 0], jax.nn.logsumexp(alpha_BS + scores.end_S[None], axis=1), 0.0)


def marginals(emissions_BLS: jax.Array, scores: Transitions, mask_BL: jax.Array) -> jax.Array:
    """Computes each tag's probability at each word, 0 in padding: B x L x S -> B x L x S.

    The gradient of the log-partition by the emissions (Wainwright and Jordan 2008, prop. 3.1).
    """
    # The rows do not depend on each other, so the gradient of their sum holds each row's own.
    total = lambda x_BLS: jnp.sum(log_partition(x_BLS, scores, mask_BL))
    return jax.grad(total)(emissions_BLS.astype(jnp.float32))


def log_likelihood(
    emissions_BLS: jax.Array, tags_BL: jax.Array, scores: Transitions, mask_BL: jax.Array
) -> jax.Array:
    """Computes a path's log-probability among all of its length, in nats: B x L x S, B x L -> B.

    In padding, tags may be any number. A path with a forbidden step has about -1e30: data must be
    repaired or refused before.
    """
    emissions_BLS = emissions_BLS.astype(jnp.float32)
    emitted_BL = jnp.take_along_axis(emissions_BLS, tags_BL[:, :, None], axis=2)[:, :, 0]
    moved_BL = scores.transition_ST[tags_BL[:, :-1], tags_BL[:, 1:]]  # B x L-1.
    last_B1 = jnp.maximum(jnp.sum(mask_BL, axis=1, keepdims=True) - 1, 0)
    last_tags_B = jnp.take_along_axis(tags_BL, last_B1, axis=1)[:, 0]
    ends_B = scores.start_S[tags_BL[:, 0]] + scores.end_S[last_tags_B]
    # Selected and not multiplied: tags of padding look up anything, FORBIDDEN too.
    score_B = (
        jnp.sum(jnp.where(mask_BL, emitted_BL, 0.0), axis=1)
        + jnp.sum(jnp.where(mask_BL[:, 1:], moved_BL, 0.0), axis=1)
        + jnp.where(mask_BL[:, 0], ends_B, 0.0)
    )
    return score_B - log_partition(emissions_BLS, scores, mask_BL)


def viterbi(
    emissions_BLS: jax.Array, scores: Transitions, mask_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Finds the best path (B x L, int32, 0 in padding) and its score (B): B x L x S -> both.

    Viterbi's algorithm (Rabiner 1989, eq. 32 to 35).
    """

    def forward(best_BS, word):
        emissions_BT, mask_B = word
        scores_BST = best_BS[:, :, None] + scores.transition_ST[None]
        next_BT = jnp.max(scores_BST, axis=1) + emissions_BT
        from_BT = jnp.argmax(scores_BST, axis=1).astype(jnp.int32)
        # Padding repeats the last tag, so that every row is read backwards from the same place.
        from_BT = jnp.where(mask_B[:, None], from_BT, jnp.arange(from_BT.shape[1])[None])
        return jnp.where(mask_B[:, None], next_BT, best_BS), from_BT

    def backward(tag_B, from_BT):
        tag_B = jnp.take_along_axis(from_BT, tag_B[:, None], axis=1)[:, 0]
        return tag_B, tag_B

    first_BS, rest = _first_and_rest(emissions_BLS, mask_BL)
    # The backpointers of word l + 1 say which tag of word l is best: L - 1 of them.
    best_BS, from_LBT = jax.lax.scan(forward, scores.start_S[None] + first_BS, rest)
    best_BS = best_BS + scores.end_S[None]
    last_B = jnp.argmax(best_BS, axis=1).astype(jnp.int32)
    _, earlier_LB = jax.lax.scan(backward, last_B, from_LBT, reverse=True)
    tags_BL = jnp.concatenate([earlier_LB.T, last_B[:, None]], axis=1)
    score_B = jnp.where(mask_BL[:, 0], jnp.max(best_BS, axis=1), 0.0)
    return jnp.where(mask_BL, tags_BL, 0), score_B


def _first_and_rest(emissions_BLS, mask_BL):
    """Splits off the first word's emissions; a scan reads the rest, words first."""
    emissions_BLS = emissions_BLS.astype(jnp.float32)
    return emissions_BLS[:, 0], (jnp.moveaxis(emissions_BLS[:, 1:], 1, 0), mask_BL[:, 1:].T)


def allowed(labels: Sequence[str], scheme: str) -> Transitions:
    """Tells which tags a scheme lets stand where, as boolean arrays over the labels.

    In BIO, I-X follows B-X or I-X. In BIOES, B-X and I-X are followed by I-X or E-X, and by these
    alone. For BIO and the labels O, B-X, I-X:

        first       O B-X
        after O     O B-X
        after B-X   O B-X I-X
        after I-X   O B-X I-X
        last        O B-X I-X

    Raises:
      UserError: the scheme is unknown, or a label is none of it.
    """
    tags = [split_tag(label, scheme) for label in labels]
    same_ST = np.array([[kind == other for _, other in tags] for _, kind in tags])
    open_S = np.array([prefix in "BI" for prefix, _ in tags])  # An entity goes on behind it.
    goes_on_S = np.array([prefix in "IE" for prefix, _ in tags])  # An entity was there before it.
    joined_ST = open_S[:, None] & goes_on_S[None] & same_ST
    if scheme == "BIO":
        return Transitions(~goes_on_S, joined_ST | ~goes_on_S[None], np.ones_like(open_S))
    # In BIOES an open entity must be closed, so what follows B and I depends on both tags.
    return Transitions(~goes_on_S, joined_ST | (~open_S[:, None] & ~goes_on_S[None]), ~open_S)


class CRF(nn.Module):
    """The transitions of a CRF over `labels`, at first 0, held to a scheme if one is given."""

    labels: tuple[str, ...]
    scheme: str | None = None

    @nn.compact
    def __call__(self) -> Transitions:
        """Gives the scores, float32; `FORBIDDEN` for what the scheme does not allow."""
        S, zeros = len(self.labels), nn.initializers.zeros_init()
        shapes = {"start": (S,), "transition": (S, S), "end": (S,)}
        # Named biases, because weight decay spares those.
        scores = [self.param(f"{name}_bias", zeros, shape) for name, shape in shapes.items()]
        if self.scheme is None:
            return Transitions(*scores)
        may = allowed(self.labels, self.scheme)
        return Transitions(*(jnp.where(m, x, FORBIDDEN) for m, x in zip(may, scores, strict=True)))
