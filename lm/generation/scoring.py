"""Computes how likely a model finds given text.

Dimension key: B batch, L length, M encoder length, P predicted tokens, V vocabulary.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.generation.decoding import by_length, of_known_ids, padded
from lm.models.families import family_of
from lm.models.parameters import Params
from lm.parallel.batches import shard_like, to_host
from lm.parallel.mesh import with_mesh


class Score(NamedTuple):
    """Says how likely a text is."""

    log_likelihood: float  # Of all tokens together, in nats.
    is_greedy: bool  # Whether each is the likeliest.
    of_tokens: tuple[float, ...]  # The log-likelihood of each token, in nats.


def score(
    model: nn.Module,
    params: Params,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    vocab_size: int,
    start_id: int = 0,
    batch_size: int = 8,
) -> list[Score]:
    """Scores each second text, given the first; the other pairs do not change the likelihood.

    Args:
      model: a decoder, which reads the two as one text, or an encoder with a decoder, which reads
        the first by its encoder.
      params: of the model.
      pairs: token ids; for a decoder, at least one in the first text.
      vocab_size: ids from this on have no likelihood.
      start_id: what a decoder behind an encoder starts from.
      batch_size: of pairs at once; logits of B x L x V are held.

    Raises:
      UserError: a pair that is longer than the model's positions and one more: its last token is
        predicted, and not read.
    """
    has_encoder = family_of(model).architecture == "encoder_decoder"
    rows = [_row(pair, start_id if has_encoder else None) for pair in pairs]
    most = model.config.max_len if not has_encoder else None
    longest = max((len(row[0]) for row in rows), default=0)
    if most is not None and longest > most:
        raise UserError(f"a text of {longest + 1} tokens exceeds the model's {most} positions")
    lengths = [(len(row[0]), len(pair[0])) for row, pair in zip(rows, pairs, strict=True)]
    scores: dict[int, Score] = {}
    for here, filled in by_length(lengths, batch_size):
        arrays_BL = [padded([rows[i][part] for i in filled], most)[0] for part in range(3)]
        encoder_BM, lengths_B = padded([pairs[i][0] for i in filled], None)  # Any length.
        encoder_BM = encoder_BM if has_encoder else None
        inputs = shard_like(params, (*arrays_BL, encoder_BM, lengths_B))
        found = to_host(with_mesh(functools.partial(_score, model))(params, *inputs, vocab_size))
        for i, total, greedy, likely_L in zip(here, *found, strict=False):  # Not what fills up.
            num = len(pairs[i][1])
            likely_L = likely_L[len(rows[i][0]) - num :][:num]
            scores[i] = Score(float(total), bool(greedy), tuple(likely_L.tolist()))
    return [scores[i] for i in range(len(pairs))]


def _row(pair: tuple[Sequence[int], Sequence[int]], start_id: int | None) -> tuple[list, ...]:
    """Returns what is read, what follows each token of that, and whether it counts."""
    first, second = map(list, pair)
    if start_id is not None:  # A decoder behind an encoder, which reads the first.
        first = [start_id]
    whole = first + second
    # The last token of the first text predicts the first of the second.
    counts = [0] * (len(first) - 1) + [1] * len(second)
    return whole[:-1], whole[1:], counts


@functools.partial(jax.jit, static_argnames=("model", "vocab_size"))
def _score(
    model, params, tokens_BL, targets_BL, weights_BL, encoder_tokens_BM, lengths_B, vocab_size
):
    inputs = {"tokens_BL": tokens_BL, "segment_ids_BL": jnp.ones_like(tokens_BL)}
    if encoder_tokens_BM is None:
        at_L = jnp.arange(tokens_BL.shape[1])
        inputs["positions_BL"] = jnp.broadcast_to(at_L[None], tokens_BL.shape)
    else:
        at_M = jnp.arange(encoder_tokens_BM.shape[1])
        inputs["encoder_tokens_BM"] = encoder_tokens_BM
        inputs["encoder_segment_ids_BM"] = (at_M[None] < lengths_B[:, None]).astype(jnp.int32)
    logits_BLV = model.apply({"params": params}, **inputs).logits().astype(jnp.float32)
    logits_BLV = of_known_ids(logits_BLV, vocab_size)
    picked_BL = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)[..., 0]
    likely_BL = picked_BL - jax.nn.logsumexp(logits_BLV, axis=-1)
    counts_BL = weights_BL > 0
    # Chosen, not multiplied by weights: what does not count may be -inf, and 0 x -inf is NaN.
    total_B = jnp.sum(jnp.where(counts_BL, likely_BL, 0.0), axis=1)
    is_likeliest_BL = jnp.argmax(logits_BLV, axis=-1) == targets_BL
    return total_B, jnp.all(is_likeliest_BL | ~counts_BL, axis=1), likely_BL


def pseudo_log_likelihoods(
    model: nn.Module,
    params: Params,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    mask_id: int,
    vocab_size: int,
    batch_size: int = 64,
) -> list[tuple[float, ...]]:
    """Scores tokens in nats, each masked alone in its text (Salazar et al. 2020, section 2).

    Takes what `masked_scores` does.

    Returns:
      Of each text, those of its positions.
    """
    sizes = dict(mask_id=mask_id, vocab_size=vocab_size, batch_size=batch_size)
    found = masked_scores(model, params, texts, _log_likelihood, **sizes)
    return [tuple(float(x) for (x,) in of_text) for of_text in found]


def masked_scores(
    model: nn.Module,
    params: Params,
    texts: Sequence[tuple[Sequence[int], Sequence[int]]],
    measure: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    mask_id: int,
    vocab_size: int,
    batch_size: int,
) -> list[list[np.ndarray]]:
    """Measures what is predicted in the place of tokens, each masked alone in its text.

    `<s> a b </s>` with the positions 1 2 is read as `<s> <mask> b </s>` and `<s> a <mask> </s>`.

    Args:
      model: an encoder.
      params: of the model.
      texts: token ids, special ones included, and the positions that are measured.
      measure: takes logits, B x V, and the tokens that are masked, B; gives R numbers of each, R x
        B. It is compiled, once for the same function.
      mask_id: what hides a token.
      vocab_size: ids from this on have no likelihood.
      batch_size: of masked texts at once, whichever they are; changes no number.

    Returns:
      Of each text, and of each of its positions, R numbers.
    """
    hidden = [(i, at) for i, (_, positions) in enumerate(texts) for at in positions]
    lengths = [len(texts[i][0]) for i, _ in hidden]
    found: dict[int, np.ndarray] = {}
    for here, filled in by_length(lengths, batch_size):
        rows = [hidden[j] for j in filled]
        tokens_BL, lengths_B = padded([texts[i][0] for i, _ in rows], model.config.max_len)
        predict_B = np.array([at for _, at in rows], np.int32)
        targets_B = tokens_BL[np.arange(len(rows)), predict_B]
        tokens_BL[np.arange(len(rows)), predict_B] = mask_id
        inputs = shard_like(params, (tokens_BL, lengths_B, predict_B[:, None], targets_B))
        step = with_mesh(functools.partial(_masked_score, model, measure))
        found |= dict(zip(here, to_host(step(params, *inputs, vocab_size)).T, strict=False))
    in_order = iter(found[j] for j in range(len(hidden)))
    return [list(itertools.islice(in_order, len(positions))) for _, positions in texts]


@functools.partial(jax.jit, static_argnames=("model", "measure", "vocab_size"))
def _masked_score(model, measure, params, tokens_BL, lengths_B, predict_BP, targets_B, vocab_size):
    at_L = jnp.arange(tokens_BL.shape[1])
    logits_BPV = model.apply(
        {"params": params},
        tokens_BL,
        jnp.broadcast_to(at_L[None], tokens_BL.shape),
        (at_L[None] < lengths_B[:, None]).astype(jnp.int32),
        predict_BP,
    ).logits()
    logits_BV = of_known_ids(logits_BPV.astype(jnp.float32), vocab_size)[:, 0]
    return measure(logits_BV, targets_B)


def _log_likelihood(logits_BV: jax.Array, targets_B: jax.Array) -> jax.Array:
    picked_B = jnp.take_along_axis(logits_BV, targets_B[:, None], axis=-1)[:, 0]
    return (picked_B - jax.nn.logsumexp(logits_BV, axis=-1))[None]
