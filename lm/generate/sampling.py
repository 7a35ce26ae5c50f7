"""Sampling text from a decoder.

Dimension key: B batch, L buffer length (prompt and continuation), V vocabulary.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.train.state import Params

_BUCKET = 64  # Buffers are multiples of this, so that prompts of many lengths share one program.


def generate(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    *,
    vocab_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    stop_ids: Sequence[int],
) -> list[list[int]]:
    """Continues each prompt on its own; the others in the batch do not change what it gets.

    Args:
      model: called as (tokens_BL, positions_BL, None) -> logits_BLV; `config.max_len` positions.
      params: of the model.
      prompts: token ids, at least one each.
      key: each prompt draws from `fold_in(key, its index)`.
      vocab_size: only ids below it are drawn; a tokenizer may know fewer than the model has.
      max_new_tokens: at most this many tokens are added.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: draws among the k likeliest only; 0 among all.
      top_p: draws among the likeliest tokens that together reach this probability; 1 among all.
      stop_ids: ends a sample, and is not part of it.

    Returns:
      The new tokens of each prompt.

    Raises:
      UserError: numbers out of range, an empty prompt, or one that leaves no room in the positions.
    """
    _check(model, prompts, max_new_tokens, temperature, top_k, top_p)
    lengths = [len(prompt) for prompt in prompts]
    buffer_len = -(-(max(lengths) + max_new_tokens) // _BUCKET) * _BUCKET
    tokens_BL = np.zeros((len(prompts), min(buffer_len, model.config.max_len)), np.int32)
    for row, prompt in zip(tokens_BL, prompts, strict=True):
        row[: len(prompt)] = prompt
    tokens_BL = _fill(
        model,
        params,
        tokens_BL,
        np.asarray(lengths, np.int32),
        key,
        vocab_size=np.int32(vocab_size),
        max_new_tokens=np.int32(max_new_tokens),
        temperature=np.float32(temperature),
        top_k=np.int32(top_k),
        top_p=np.float32(top_p),
        stop_ids=np.asarray([*stop_ids, -1], np.int32),  # -1 is no token: the array is never empty.
    )
    outputs = []
    for row, length in zip(np.asarray(tokens_BL), lengths, strict=True):
        new = row[length : length + max_new_tokens].tolist()
        end = next((i for i, token in enumerate(new) if token in stop_ids), len(new))
        outputs.append(new[:end])
    return outputs


@functools.partial(jax.jit, static_argnums=0)
def _fill(
    model,
    params,
    tokens_BL,
    lengths_B,
    key,
    *,
    vocab_size,
    max_new_tokens,
    temperature,
    top_k,
    top_p,
    stop_ids,
):
    """Writes one token a row and turn, until every row has stopped or has all its tokens."""
    B, L = tokens_BL.shape
    keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(B))
    positions_BL = jnp.broadcast_to(jnp.arange(L), (B, L))
    rows_B = jnp.arange(B)

    def unfinished(carry):
        turn, _, stopped_B = carry
        return (turn < max_new_tokens) & ~jnp.all(stopped_B)

    def add_token(carry):
        turn, tokens_BL, stopped_B = carry
        # What stands behind a row's last token is hidden from it by causality.
        logits_BLV = model.apply({"params": params}, tokens_BL, positions_BL, None)
        at_B = lengths_B + turn
        logits_BV = logits_BLV[rows_B, at_B - 1].astype(jnp.float32)
        known_V = jnp.arange(logits_BV.shape[-1]) < vocab_size
        logits_BV = jnp.where(known_V[None], logits_BV, -jnp.inf)
        turn_keys_B = jax.vmap(lambda k: jax.random.fold_in(k, turn))(keys_B)
        new_B = draw(logits_BV, turn_keys_B, temperature=temperature, top_k=top_k, top_p=top_p)
        # A row that has stopped writes outside its buffer, which drops the token.
        tokens_BL = tokens_BL.at[rows_B, jnp.where(stopped_B, L, at_B)].set(new_B, mode="drop")
        return turn + 1, tokens_BL, stopped_B | jnp.isin(new_B, stop_ids)

    state = (jnp.int32(0), jnp.asarray(tokens_BL), jnp.zeros(B, bool))
    return jax.lax.while_loop(unfinished, add_token, state)[1]


def draw(logits_BV, keys_B, *, temperature, top_k, top_p) -> jax.Array:
    """B x V -> one token for each of B rows; see `generate` for the numbers."""
    filtered_BV = filter_logits(logits_BV / jnp.maximum(temperature, 1e-6), top_k, top_p)
    drawn_B = jax.vmap(jax.random.categorical)(keys_B, filtered_BV)
    return jnp.where(temperature > 0, drawn_B, jnp.argmax(logits_BV, axis=-1)).astype(jnp.int32)


def filter_logits(logits_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets the logits of tokens that must not be drawn to -inf: first top-k, then the nucleus of
    the rest (Holtzman et al. 2020, section 3.1), which always holds the likeliest token.

    With probabilities 0.5 0.3 0.15 0.05: top_k=3 keeps the first three; top_p=0.6 the first two,
    since the first alone has not reached 0.6.
    """
    V = logits_BV.shape[-1]
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    rank_V = jnp.arange(V)
    sorted_BV = jnp.where((rank_V < jnp.where(top_k > 0, top_k, V))[None], sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV
    keep_BV = (before_BV < top_p) | (top_p >= 1) | (rank_V == 0)[None]
    sorted_BV = jnp.where(keep_BV, sorted_BV, -jnp.inf)
    rank_of_BV = jnp.argsort(order_BV, axis=-1)
    return jnp.take_along_axis(sorted_BV, rank_of_BV, axis=-1)


def _check(model, prompts, max_new_tokens, temperature, top_k, top_p) -> None:
    problems = [
        (max_new_tokens < 1, f"max_new_tokens={max_new_tokens} must be at least 1"),
        (temperature < 0, f"temperature={temperature} must not be negative; 0 is greedy"),
        (top_k < 0, f"top_k={top_k} must not be negative; 0 draws among all tokens"),
        (not 0 < top_p <= 1, f"top_p={top_p} must lie in (0, 1]; 1 draws among all tokens"),
        (not all(len(p) for p in prompts), "an empty prompt needs a tokenizer with a BOS token"),
    ]
    longest, room = max(map(len, prompts), default=0), model.config.max_len
    problems.append(
        (
            longest + max_new_tokens > room,
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"{room} positions; shorten one of them",
        )
    )
    for applies, problem in problems:
        if applies:
            raise UserError(problem)
