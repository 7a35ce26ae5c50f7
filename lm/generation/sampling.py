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
from lm.models.families import family_of
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params
from lm.parallel.batches import shard_like, to_host

BLOCK = 32  # Tokens between two looks at their text, for which the device waits.


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
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    is_ended: Callable[[int, Sequence[int]], bool] | None = None,
    look_every: int = BLOCK,
    start_id: int = 0,
    batch_size: int = 32,
) -> list[Sample]:
    """Continues, or answers, each prompt; the other prompts do not change what it gets.

    Args:
      model: a decoder, or an encoder with a decoder, whose encoder reads the prompts.
      params: of the model, or its `unstack_for_decoding`, made once for many calls.
      prompts: token ids, at least one each.
      key: of what is drawn; see `draw_index`.
      vocab_size: only ids below it are drawn; a tokenizer may know fewer than the model has.
      max_new_tokens: at most this many tokens are added.
      temperature: divides the logits; 0 takes the likeliest token.
      top_k: draws among the k likeliest only; 0 among all.
      top_p: draws among the likeliest tokens that together reach this probability; 1 among all.
      stop_ids: each of them ends a sample, and is not part of it.
      min_p: draws among tokens with at least this share of the likeliest one's probability.
      repetition_penalty: divides the logits above 0 of tokens that the decoder has read or written,
        and multiplies those below (Keskar et al. 2019, section 4.1); 1 for none.
      is_ended: whether the new tokens of a prompt, given its index, need no others.
      look_every: `is_ended` is asked every so many tokens, so that there may be others.
      start_id: what a decoder behind an encoder starts from.
      batch_size: of prompts that are written at once.

    Raises:
      UserError: numbers out of range, an empty prompt, or one that leaves no room in the positions.
    """
    decoding.check_room(model, prompts, max_new_tokens)
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    how |= dict(repetition_penalty=repetition_penalty)
    check(**how)
    params = unstack_for_decoding(params, model.config.dtype)
    index_of = _draw_indices(prompts)
    # All are traced, so that other numbers compile nothing anew.
    stop_array = np.array(list(stop_ids) or [-1])  # No token is -1.
    settings = dict(vocab_size=vocab_size, stop_ids=stop_array)
    outputs: dict[int, Sample] = {}
    for batch in decoding.batches(prompts, batch_size, model.config.max_len):
        rows = batch.tokens_BL, batch.lengths_B, index_of[batch.rows]
        written = _begin(
            model,
            params,
            *shard_like(params, rows),
            key,
            how,
            num_new=decoding.bucket(max_new_tokens),
            start_id=start_id,
            until=min(max_new_tokens, look_every) if is_ended else max_new_tokens,
            **settings,
        )
        while True:
            turn, new_BN, stopped_B = to_host((written.turn, written.new_BN, written.stopped_B))
            if turn >= max_new_tokens or stopped_B.all():
                break
            ended = [is_ended(i, new_BN[b, :turn].tolist()) for b, i in enumerate(batch.rows)]
            stopped_B = shard_like(params, stopped_B | np.array(ended))
            written = written.replace(stopped_B=stopped_B)
            until = min(max_new_tokens, int(turn) + look_every)
            written = _go_on(model, params, written, until=until, **settings)
        for index, new_N in zip(batch.indices, new_BN, strict=False):
            new = new_N[:turn].tolist()
            end = next((i for i, token in enumerate(new) if token in stop_ids), len(new))
            outputs[index] = Sample(new[:end], new[end] if end < len(new) else None)
    return [outputs[i] for i in range(len(prompts))]


def draw_index(prompt: Sequence[int], copy: int) -> int:
    """Computes what a prompt folds into the key: a checksum of it and of how often it came before.

    So a prompt's samples depend neither on the other prompts nor on its place among them, and a
    prompt that comes twice gets two samples.
    """
    ids = np.asarray(prompt, np.int32).tobytes()
    return zlib.crc32(copy.to_bytes(4, "little"), zlib.crc32(ids))


def _draw_indices(prompts: Sequence[Sequence[int]]) -> np.ndarray:
    copies: Counter[tuple[int, ...]] = Counter()
    indices = []
    for prompt in prompts:
        indices.append(draw_index(prompt, copies[tuple(prompt)]))
        copies[tuple(prompt)] += 1
    return np.array(indices, np.uint32)


@struct.dataclass
class DrawSettings:
    """Says how each of B rows is drawn; see `sample` for the numbers."""

    temperature_B: Any
    top_k_B: Any
    top_p_B: Any
    min_p_B: Any
    repetition_penalty_B: Any

    @classmethod
    def of(
        cls, num_rows: int, *, temperature, top_k, top_p, min_p, repetition_penalty
    ) -> "DrawSettings":
        """Makes those of rows that are all drawn alike."""
        numbers = lambda x: jnp.full(num_rows, x, jnp.float32)
        return cls(
            numbers(temperature),
            jnp.full(num_rows, top_k, jnp.int32),
            numbers(top_p),
            numbers(min_p),
            numbers(repetition_penalty),
        )


@struct.dataclass
class _Progress:
    """Holds what is written after a number of turns, and what is needed to go on."""

    turn: Any  # How many tokens each row has, int32.
    new_BN: Any  # Their ids; rows that have stopped hold others behind their end.
    stopped_B: Any  # Rows that need no more.
    position_B: Any  # Of each row's first new token.
    keys_B: Any  # Of what is drawn.
    settings: DrawSettings
    seen_BV: Any  # Tokens that a row has read or written, for the penalty.
    caches: Any  # Of what was read: all but each row's last token.


@functools.partial(jax.jit, static_argnames=("model", "num_new"))
def _begin(
    model, params, tokens_BL, lengths_B, index_B, key, how, *, num_new, start_id, until, **ends
):
    """Reads prompts, and writes; see `_add_tokens`."""
    logits_BV, positions_B, caches = decoding.start(
        model, params, tokens_BL, lengths_B, num_new=num_new, start_id=start_id
    )
    keys_B = jax.vmap(lambda index: jax.random.fold_in(key, index))(index_B)
    B, V = logits_BV.shape
    first = _Progress(
        turn=jnp.int32(0),
        new_BN=jnp.zeros((B, num_new), jnp.int32),
        stopped_B=jnp.zeros(B, bool),
        position_B=positions_B,
        keys_B=keys_B,
        settings=DrawSettings.of(B, **how),
        seen_BV=seen(model, tokens_BL, lengths_B, start_id=start_id, num_ids=V),
        caches=caches,
    )
    first = _with_token(first, logits_BV, **ends)
    return _add_tokens(model, params, first, until=until, **ends)


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("written",))
def _go_on(model, params, written, **settings):
    """Writes more; see `_add_tokens`. Donating `written` keeps its caches in their place."""
    return _add_tokens(model, params, written, **settings)


def _add_tokens(model, params, written: _Progress, *, until, **ends) -> _Progress:
    """Adds a token a row and turn, until every row has stopped or has as many as it may."""

    def unfinished(written):
        return (written.turn < until) & ~jnp.all(written.stopped_B)

    def add_token(written):
        token_B = jax.lax.dynamic_index_in_dim(written.new_BN, written.turn - 1, 1, keepdims=False)
        at_B = written.position_B + written.turn - 1
        logits_BV, caches = decoding.step(model, params, token_B, at_B, written.caches)
        return _with_token(written.replace(caches=caches), logits_BV, **ends)

    return jax.lax.while_loop(unfinished, add_token, written)


def _with_token(written: _Progress, logits_BV, *, vocab_size, stop_ids) -> _Progress:
    """Draws the next token of each row; see `draw`."""
    logits_BV = decoding.of_known_ids(logits_BV, vocab_size)
    turns_B = jnp.full_like(written.position_B, written.turn)
    token_B = draw(logits_BV, written.keys_B, turns_B, written.seen_BV, written.settings)
    return written.replace(
        turn=written.turn + 1,
        new_BN=written.new_BN.at[:, written.turn].set(token_B),
        stopped_B=written.stopped_B | jnp.isin(token_B, stop_ids),
        seen_BV=also_seen(written.seen_BV, token_B),
    )


def seen(model, tokens_BL, lengths_B, *, start_id: int, num_ids: int) -> jax.Array:
    """Says which ids the decoder has read before it writes, B x V."""
    B, L = tokens_BL.shape
    if family_of(model).architecture == "encoder_decoder":  # The prompt is not its own text.
        return jnp.broadcast_to(jnp.arange(num_ids)[None] == start_id, (B, num_ids))
    # What fills a row up has an id of no token, and is dropped.
    ids_BL = jnp.where(jnp.arange(L)[None] < lengths_B[:, None], tokens_BL, num_ids)
    return jnp.zeros((B, num_ids), bool).at[jnp.arange(B)[:, None], ids_BL].set(True, mode="drop")


def also_seen(seen_BV: jax.Array, token_B: jax.Array) -> jax.Array:
    """Adds a token a row to those that were seen."""
    return seen_BV.at[jnp.arange(token_B.shape[0]), token_B].set(True)


def draw(logits_BV, keys_B, turns_B, seen_BV, settings: DrawSettings) -> jax.Array:
    """Draws one token a row of B x V logits, the one of this turn by its key."""
    logits_BV = penalize(logits_BV, seen_BV, settings.repetition_penalty_B)
    likeliest_B, temperature_B = _argmax(logits_BV), settings.temperature_B

    def at_random():
        filtered_BV = scale_and_filter(logits_BV, settings)
        # A key a row and turn: neither other rows nor the blocks of turns change what is drawn.
        turn_keys_B = jax.vmap(jax.random.fold_in)(keys_B, turns_B)
        shape = logits_BV.shape[1:]
        noise_BV = jax.vmap(lambda key: jax.random.gumbel(key, shape))(turn_keys_B)
        drawn_B = _argmax(noise_BV + filtered_BV)  # As `jax.random.categorical` does it.
        return jnp.where(temperature_B > 0, drawn_B, likeliest_B)

    # Conditions, not choices between two results: sorting the vocabulary takes long.
    token_B = jax.lax.cond(jnp.any(temperature_B > 0), at_random, lambda: likeliest_B)
    return token_B.astype(jnp.int32)


def penalize(logits_BV: jax.Array, seen_BV: jax.Array, penalty_B: jax.Array) -> jax.Array:
    """Divides the logits above 0 of tokens that were seen, and multiplies those below."""
    penalty_B1 = penalty_B[:, None]
    punished_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    return jnp.where(seen_BV, punished_BV, logits_BV)


def scale_and_filter(logits_BV: jax.Array, settings: DrawSettings) -> jax.Array:
    """Divides logits by the temperature, and sets those of tokens that must not be drawn to -inf:
    by top-k, then by the nucleus, then those below a share of the likeliest one's probability.
    """
    c = settings
    # A smaller temperature could make infinities, whose softmax is NaN.
    scaled_BV = logits_BV / jnp.maximum(c.temperature_B, 1e-6)[:, None]
    is_filtered = jnp.any((c.temperature_B > 0) & ((c.top_k_B > 0) | (c.top_p_B < 1)))
    filtered_BV = jax.lax.cond(
        is_filtered, lambda: filter_logits(scaled_BV, c.top_k_B, c.top_p_B), lambda: scaled_BV
    )
    least_B = jnp.max(filtered_BV, axis=-1) + jnp.log(c.min_p_B)
    return jnp.where(filtered_BV >= least_B[:, None], filtered_BV, -jnp.inf)


def filter_logits(logits_BV: jax.Array, top_k_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Sets the logits of tokens that must not be drawn to -inf: first top-k, then the nucleus of
    the rest (Holtzman et al. 2020, section 3.1), which always holds the likeliest token.

    With probabilities 0.5 0.3 0.15 0.05: top_k=3 keeps the first three; top_p=0.6 the first two,
    since the first alone has not reached 0.6.
    """
    num_B = jnp.where(top_k_B > 0, top_k_B, logits_BV.shape[-1]).astype(jnp.float32)
    logits_BV = _keep_first(logits_BV, jnp.ones_like(logits_BV), num_B)
    weights_BV = jnp.exp(logits_BV - jnp.max(logits_BV, axis=-1, keepdims=True))
    reached_B = jnp.maximum(top_p_B * jnp.sum(weights_BV, axis=-1), jnp.finfo(jnp.float32).tiny)
    # With top_p=1 rounded sums must leave nothing out.
    return _keep_first(logits_BV, weights_BV, jnp.where(top_p_B >= 1, jnp.inf, reached_B))


def _keep_first(logits_BV: jax.Array, weights_BV: jax.Array, limit_B: jax.Array) -> jax.Array:
    """Keeps the first tokens until their weights have come to a limit; others get -inf.

    The likeliest is the first, and of equal ones that of the lowest id. Equal logits have equal
    weights.
    """
    # Halves the range of all floats, and does not sort: on a CPU that took longer than the model.
    bits_BV = jax.lax.bitcast_convert_type(logits_BV, jnp.int32)
    order_BV = bits_BV ^ ((bits_BV >> 31) & 0x7FFFFFFF)  # Integers that rise as the floats do.
    above = lambda level_B: jnp.sum(
        jnp.where(order_BV > level_B[:, None], weights_BV, 0.0), axis=-1
    )

    def halve(_, ends):
        low_B, high_B = ends
        middle_B = (low_B & high_B) + ((low_B ^ high_B) >> 1)  # Their mean, without overflow.
        is_enough_B = above(middle_B) < limit_B
        return jnp.where(is_enough_B, low_B, middle_B + 1), jnp.where(is_enough_B, middle_B, high_B)

    least, most = jnp.iinfo(jnp.int32).min, jnp.iinfo(jnp.int32).max
    ends = jnp.full_like(limit_B, least, jnp.int32), jnp.full_like(limit_B, most, jnp.int32)
    level_B, _ = jax.lax.fori_loop(0, 32, halve, ends)
    # All above this level are kept, and of those that stand on it as many as the limit lets in.
    is_level_BV = order_BV == level_B[:, None]
    weight_B = jnp.max(jnp.where(is_level_BV, weights_BV, 0.0), axis=-1)
    num_B = jnp.ceil((limit_B - above(level_B)) / weight_B)
    keep_BV = jax.lax.cond(
        jnp.any(jnp.sum(is_level_BV, axis=-1) > num_B),
        lambda: is_level_BV & (jnp.cumsum(is_level_BV, axis=-1) <= num_B[:, None]),
        lambda: is_level_BV,
    )
    return jnp.where(keep_BV | (order_BV > level_B[:, None]), logits_BV, -jnp.inf)


def _argmax(x_BV: jax.Array) -> jax.Array:
    """Finds the first of the largest: `jnp.argmax`, of which CPUs compute one number at a time."""
    V = x_BV.shape[-1]
    is_largest_BV = x_BV == jnp.max(x_BV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_largest_BV, jnp.arange(V)[None], V), axis=-1)


def check(
    *, temperature: float, top_k: int, top_p: float, min_p: float, repetition_penalty: float
) -> None:
    """Raises UserError where one of these is out of its range, or no number; see `sample`."""
    most = float(np.finfo(np.float32).max)
    if not 0 <= temperature <= most:  # Also of NaN.
        raise UserError(
            f"temperature={temperature} must be a number of at least 0 that float32 holds; 0 is "
            "greedy"
        )
    if not 0 <= top_k < 1 << 31:
        raise UserError(
            f"top_k={top_k} must lie in [0, {1 << 31}), which int32 holds; 0 draws among all tokens"
        )
    if not 0 < top_p <= 1:
        raise UserError(f"top_p={top_p} must lie in (0, 1]; 1 draws among all tokens")
    if not 0 <= min_p <= 1:
        raise UserError(f"min_p={min_p} must lie in [0, 1]; 0 draws among all tokens")
    if not 1e-6 <= repetition_penalty <= 1e6:
        raise UserError(
            f"repetition_penalty={repetition_penalty} must lie in [1e-6, 1e6]; 1 is none"
        )
