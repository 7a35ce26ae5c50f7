"""Samples text: greedily, or at a temperature, among the top k, or from the nucleus.

Dimension key: B batch, L length, N new tokens, V vocabulary.
"""

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from lm.errors import UserError
from lm.generation import decoding
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params
from lm.parallel.batches import shard_like, to_host

_BLOCK = 32  # Tokens between two looks at their text, for which the device waits.


class Sample(NamedTuple):
    """Holds what was drawn after one prompt."""

    tokens: list[int]  # Without the token that ended them.
    stop_id: int | None  # The token that ended them; None where none did.


def generate(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    key: jax.Array,
    **settings,
) -> list[list[int]]:
    """Returns the new tokens of each prompt; see `sample`."""
    return [x.tokens for x in sample(model, params, prompts, key, **settings)]


def sample(
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
    is_ended: Callable[[int, Sequence[int]], bool] | None = None,
    start_id: int = 0,
    batch_size: int = 32,
) -> list[Sample]:
    """Continues, or answers, each prompt; the other prompts do not change what it gets.

    Args:
      model: a decoder, or an encoder with a decoder, whose encoder reads the prompts.
      params: of the model, or its `unstack_for_decoding`, made once for many calls.
      prompts: token ids, at least one each.
      key: of what is drawn; see `_draw_index`.
      vocab_size: only ids below it are drawn; a tokenizer may know fewer than the model has.
      max_new_tokens: at most this many tokens are added.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: draws among the k likeliest only; 0 among all.
      top_p: draws among the likeliest tokens that together reach this probability; 1 among all.
      stop_ids: each of them ends a sample, and is not part of it.
      is_ended: whether the new tokens of a prompt, given its index, need no others; it is asked
        every 32 tokens, so that there may be others.
      start_id: what a decoder behind an encoder starts from.
      batch_size: of prompts that are written at once.

    Raises:
      UserError: numbers out of range, an empty prompt, or one that leaves no room in the positions.
    """
    decoding.check_room(model, prompts, max_new_tokens)
    check(temperature, top_k, top_p)
    params = unstack_for_decoding(params, model.config.dtype)
    index_of = _draw_index(prompts)
    # All are traced, so that other numbers compile nothing anew.
    settings = dict(
        vocab_size=vocab_size,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        stop_ids=np.array(list(stop_ids) or [-1]),  # No token is -1.
    )
    outputs: dict[int, Sample] = {}
    for batch in decoding.batches(prompts, batch_size, model.config.max_len):
        rows = batch.tokens_BL, batch.lengths_B, index_of[batch.rows]
        written = _begin(
            model,
            params,
            *shard_like(params, rows),
            key,
            num_new=decoding.bucket(max_new_tokens),
            start_id=start_id,
            until=min(max_new_tokens, _BLOCK) if is_ended else max_new_tokens,
            **settings,
        )
        while True:
            turn, new_BN, stopped_B = to_host((written.turn, written.new_BN, written.stopped_B))
            if turn >= max_new_tokens or stopped_B.all():
                break
            ended = [is_ended(i, new_BN[b, :turn].tolist()) for b, i in enumerate(batch.rows)]
            stopped_B = shard_like(params, stopped_B | np.array(ended))
            written = written.replace(stopped_B=stopped_B)
            until = min(max_new_tokens, int(turn) + _BLOCK)
            written = _go_on(model, params, written, until=until, **settings)
        for index, new_N in zip(batch.indices, new_BN, strict=False):
            new = new_N[:turn].tolist()
            end = next((i for i, token in enumerate(new) if token in stop_ids), len(new))
            outputs[index] = Sample(new[:end], new[end] if end < len(new) else None)
    return [outputs[i] for i in range(len(prompts))]


def _draw_index(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    """Computes what each prompt folds into the key: a checksum of it and of its earlier copies."""
    # So a prompt's samples depend neither on the other prompts nor on its place among them, and a
    # prompt that comes twice gets two samples.
    before: Counter[bytes] = Counter()
    indices = []
    for prompt in prompts:
        ids = np.asarray(prompt, np.int32).tobytes()
        indices.append(zlib.crc32(before[ids].to_bytes(4, "little"), zlib.crc32(ids)))
        before[ids] += 1
    return np.array(indices, np.uint32)


@struct.dataclass
class _Progress:
    """Holds what is written after a number of turns, and what is needed to go on."""

    turn: Any  # How many tokens each row has, int32.
    new_BN: Any  # Their ids; rows that have stopped hold others behind their end.
    stopped_B: Any  # Rows that need no more.
    position_B: Any  # Of each row's first new token.
    keys_B: Any  # Of what is drawn.
    caches: Any  # Of what was read: all but each row's last token.


@functools.partial(jax.jit, static_argnames=("model", "num_new"))
def _begin(
    model, params, tokens_BL, lengths_B, index_B, key, *, num_new, start_id, until, **drawing
):
    """Reads prompts, and writes; see `_add_tokens`."""
    logits_BV, positions_B, caches = decoding.start(
        model, params, tokens_BL, lengths_B, num_new=num_new, start_id=start_id
    )
    keys_B = jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B)
    B = tokens_BL.shape[0]
    nothing = jnp.zeros((B, num_new), jnp.int32), jnp.zeros(B, bool)
    first = _Progress(jnp.int32(0), *nothing, positions_B, keys_B, caches)
    first = _with_token(first, logits_BV, **drawing)
    return _add_tokens(model, params, first, until=until, **drawing)


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("written",))
def _go_on(model, params, written, **settings):
    """Writes more; see `_add_tokens`. Donating `written` keeps its caches in their place."""
    return _add_tokens(model, params, written, **settings)


def _add_tokens(model, params, written: _Progress, *, until, **drawing) -> _Progress:
    """Adds a token a row and turn, until every row has stopped or has as many as it may."""

    def unfinished(written):
        return (written.turn < until) & ~jnp.all(written.stopped_B)

    def add_token(written):
        token_B = jax.lax.dynamic_index_in_dim(written.new_BN, written.turn - 1, 1, keepdims=False)
        at_B = written.position_B + written.turn - 1
        logits_BV, caches = decoding.step(model, params, token_B, at_B, written.caches)
        return _with_token(written.replace(caches=caches), logits_BV, **drawing)

    return jax.lax.while_loop(unfinished, add_token, written)


def _with_token(written: _Progress, logits_BV, *, vocab_size, stop_ids, **drawing) -> _Progress:
    """Draws the next token of each row; see `draw`."""
    logits_BV = decoding.of_known_ids(logits_BV, vocab_size)
    # A key a row and turn: neither other rows nor the blocks of turns change what is drawn.
    turn_keys_B = jax.vmap(lambda key: jax.random.fold_in(key, written.turn))(written.keys_B)
    token_B = draw(logits_BV, turn_keys_B, **drawing)
    return written.replace(
        turn=written.turn + 1,
        new_BN=written.new_BN.at[:, written.turn].set(token_B),
        stopped_B=written.stopped_B | jnp.isin(token_B, stop_ids),
    )


def draw(logits_BV, keys_B, *, temperature, top_k, top_p) -> jax.Array:
    """Draws one token a row of B x V logits; see `sample` for the numbers."""

    def at_random():
        # A smaller temperature could make infinities, whose softmax is NaN.
        filtered_BV = filter_logits(logits_BV / jnp.maximum(temperature, 1e-6), top_k, top_p)
        return jax.vmap(jax.random.categorical)(keys_B, filtered_BV)

    likeliest = lambda: jnp.argmax(logits_BV, axis=-1)
    # A condition, not a choice between two results: sorting the vocabulary takes long.
    return jax.lax.cond(temperature > 0, at_random, likeliest).astype(jnp.int32)


def filter_logits(logits_BV: jax.Array, top_k: jax.Array, top_p: jax.Array) -> jax.Array:
    """Sets the logits of tokens that must not be drawn to -inf: first top-k, then the nucleus of
    the rest (Holtzman et al. 2020, section 3.1), which always holds the likeliest token.

    With probabilities 0.5 0.3 0.15 0.05: top_k=3 keeps the first three; top_p=0.6 the first two,
    since the first alone has not reached 0.6.
    """
    V = logits_BV.shape[-1]
    order_BV = jnp.argsort(-logits_BV, axis=-1, stable=True)  # Of equal ones, the lower id first.
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    rank_V = jnp.arange(V)
    sorted_BV = jnp.where((rank_V < jnp.where(top_k > 0, top_k, V))[None], sorted_BV, -jnp.inf)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV  # The sum of those that are likelier.
    # With top_p=1 a sum that float32 rounds up to 1 must leave nothing out.
    keep_BV = (before_BV < top_p) | (top_p >= 1) | (rank_V == 0)[None]
    sorted_BV = jnp.where(keep_BV, sorted_BV, -jnp.inf)
    rank_of_BV = jnp.argsort(order_BV, axis=-1)  # Inverts the permutation.
    return jnp.take_along_axis(sorted_BV, rank_of_BV, axis=-1)


def check(temperature: float, top_k: int, top_p: float) -> None:
    """Raises UserError where one of these is out of its range, or no number; see `sample`."""
    if not 0 <= temperature <= float(np.finfo(np.float32).max):  # Also of NaN.
        raise UserError(
            f"temperature={temperature} must be a number of at least 0 that float32 holds; 0 is "
            "greedy"
        )
    if top_k < 0:
        raise UserError(f"top_k={top_k} must not be negative; 0 draws among all tokens")
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} must lie in (0, 1]; 1 draws among all tokens")
