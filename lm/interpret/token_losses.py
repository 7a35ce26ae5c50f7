"""How well a language model predicts each token of a text.

Dimension key: B batch, L length, V vocabulary.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.generation import scoring
from lm.interpret.subject import Subject, Text, run_model
from lm.models.parameters import Params

_BATCH_SIZE = 16  # Masked texts at once.


class TokenLosses(NamedTuple):
    """Of each token of a text, NaN where nothing predicts it.

    loss: its negative log-likelihood, in nats; over all texts it adds up to eval/loss times their
      number.
    entropy: of what was predicted in its place, in nats.
    rank: 1 where it was the likeliest; of equally likely tokens it has the last place.
    """

    loss_L: np.ndarray
    entropy_L: np.ndarray
    rank_L: np.ndarray


def token_losses(subject: Subject, text: Text) -> TokenLosses:
    """Scores the tokens of a text: of a decoder given those before, of an encoder given all others.

    An encoder predicts each token behind a mask in its place (Salazar et al. 2020). Of an encoder
    with a decoder, these are the decoder's tokens.

    Raises:
      UserError: a task model without logits of tokens, or an encoder without a mask token.
    """
    if subject.body:
        raise UserError(
            f"{subject.folder} does {subject.kind}, and predicts no tokens; what=tokens is for "
            "language models"
        )
    ids_L = text.written.ids_L
    length = len(ids_L)
    if length < 2:
        raise UserError(
            f"{text.name} has no token to predict; give a longer text, or behind an encoder "
            "the field 'target'"
        )
    if subject.architecture == "encoder":
        found = _masked(subject, text, ids_L)
    else:
        tokens_BL = text.inputs["tokens_BL"]
        targets_L = np.append(tokens_BL[0, 1:], 0)
        found_of = _scores(subject.model, subject.params, text.inputs, targets_L[None])
        # What predicts a token stands before it.
        found = [np.append(np.nan, np.asarray(x)[0, : length - 1]) for x in found_of]
    return TokenLosses(*found)


def _masked(subject: Subject, text: Text, ids_L: np.ndarray) -> list[np.ndarray]:
    tokenizer = subject.run.tokenizer
    if tokenizer.mask_id is None:
        raise UserError(f"{subject.folder}: its tokenizer has no mask token, behind which to guess")
    ids = ids_L.tolist()
    at = [i for i, token_id in enumerate(ids) if not tokenizer.is_special(token_id)]
    found = np.full((3, len(ids)), np.nan)
    (of_text,) = scoring.masked_scores(
        subject.model,
        subject.params,
        [(ids, at)],
        _measures,
        mask_id=tokenizer.mask_id,
        vocab_size=subject.model.config.vocab_size,
        batch_size=_BATCH_SIZE,
    )
    found[:, at] = np.array(of_text).T
    return list(found)


@functools.partial(jax.jit, static_argnames="model")
def _scores(
    model: nn.Module, params: Params, inputs: dict[str, Any], targets_BL: jax.Array
) -> jax.Array:
    return _measures(run_model(model, params, inputs)[0], targets_BL)


def _measures(logits_BLV: jax.Array, targets_BL: jax.Array) -> jax.Array:
    """Gives loss, entropy and rank: three times the shape of `targets_BL`, which may be any."""
    log_z_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    picked_BL1 = jnp.take_along_axis(logits_BLV, targets_BL[..., None], axis=-1)
    probs_BLV = jnp.exp(logits_BLV - log_z_BL[..., None])
    entropy_BL = log_z_BL - jnp.sum(probs_BLV * logits_BLV, axis=-1)
    rank_BL = jnp.sum(logits_BLV >= picked_BL1, axis=-1)
    return jnp.stack([log_z_BL - picked_BL1[..., 0], entropy_BL, rank_BL])
