"""Decodes token by token with a cache of keys and values, with an encoder or without.

Dimension key: B batch, L length, M slots or encoder length, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.models import kv_cache
from lm.models.blocked_matrix import BlockedMatrix
from lm.models.families import family_of
from lm.models.int8 import Int8Matrix
from lm.models.parameters import Params
from lm.tokenizers.tokenizers import Tokenizer


def bucket(length: int, most: int | None = None) -> int:
    """Rounds up to a power of two from 32 to `most`: few sizes, so that few are compiled."""
    size = max(32, 1 << (int(length) - 1).bit_length())
    return size if most is None else min(size, most)


def fine_buckets(longest: int) -> list[int]:
    """500 gives 32, 64, 96, 128, 192, 256, 384, 512: few, so that few are compiled."""
    sizes = [32]
    while (last := sizes[-1]) < longest:
        is_power_of_two = last & (last - 1) == 0
        sizes.append(64 if last == 32 else last * 3 // 2 if is_power_of_two else last * 4 // 3)
    return sizes


class Batch(NamedTuple):
    """Holds prompts that are read at once."""

    indices: list[int]
    rows: list[int]  # The same, filled up with the first of them.
    tokens_BL: np.ndarray  # Of each row, filled up with 0 at its end.
    lengths_B: np.ndarray  # How many tokens each row has.


def batches(prompts: Sequence[Sequence[int]], batch_size: int, most: int | None) -> Iterator[Batch]:
    """Puts prompts of like length together, in few shapes, so that few are compiled.

    Args:
      prompts: token ids, at least one each.
      batch_size: at most so many rows.
      most: at most so many tokens; None for any number.
    """
    for here, rows in by_length([len(prompt) for prompt in prompts], batch_size):
        tokens_BL, lengths_B = padded([prompts[i] for i in rows], most)
        yield Batch(here, rows, tokens_BL, lengths_B)


def by_length(lengths: Sequence[Any], batch_size: int) -> Iterator[tuple[list[int], list[int]]]:
    """Yields the indices of each batch's rows, shortest first, without and with what fills it up.

    Lengths 3, 1, 2 in batches of 2 give ([1, 2], [1, 2]) and ([0], [0, 0]): every batch has as many
    rows, a power of two where there are fewer than `batch_size`.
    """
    size = min(batch_size, 1 << max(len(lengths) - 1, 0).bit_length())
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    for first in range(0, len(order), size):
        here = order[first : first + size]
        yield here, here + here[:1] * (size - len(here))


def padded(rows: Sequence[Sequence[int]], most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Fills rows up with 0 to a bucket's length, B x L; returns also the length of each, B."""
    return filled(rows, bucket(max(map(len, rows)), most))


def filled(rows: Sequence[Sequence[int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Fills rows up with 0 to a length, B x L; returns also the length of each, B."""
    array_BL = np.zeros((len(rows), length), np.int32)
    for into, row in zip(array_BL, rows, strict=True):
        into[: len(row)] = row
    return array_BL, np.array([len(row) for row in rows], np.int32)


def start(
    model: nn.Module,
    params: Params,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
    *,
    num_new: int,
    start_id: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """Reads prompts.

    Args:
      model: a decoder, which goes on from the prompts, or one with an encoder, which reads them and
        starts to write from `start_id`.
      params: of `kv_cache.unstack_for_decoding`.
      tokens_BL, lengths_B: see `Batch`.
      num_new: how many tokens there must be room for.
      start_id: only for a model with an encoder.

    Returns:
      Logits of the token that comes next, B x V; the position that it will have, B; the caches.
    """
    c, variables = model.config, {"params": params}
    B, L = tokens_BL.shape
    if family_of(model).architecture == "encoder_decoder":
        segment_ids_BL = (jnp.arange(L)[None] < lengths_B[:, None]).astype(jnp.int32)
        # Keys and values of what the encoder read, and room for those of what is written.
        caches = model.apply(variables, tokens_BL, segment_ids_BL, num_new, method="read")
        tokens_BL = jnp.full((B, 1), start_id, jnp.int32)
        lengths_B = jnp.ones(B, jnp.int32)
    else:
        num_slots = L + num_new if c.max_len is None else min(L + num_new, c.max_len)
        caches = empty_caches(model, B, num_slots)
    logits_BV, _, caches = read(model, params, tokens_BL, lengths_B, jnp.int32(0), caches)
    return logits_BV, lengths_B, caches


def empty_caches(model: nn.Module, num_rows: int, num_slots: int) -> list[kv_cache.LayerCache]:
    """Makes those of a decoder that has read nothing."""
    c = model.config
    num_kv_heads = getattr(c, "num_kv_heads", c.num_heads)  # Grouped queries share keys.
    own = kv_cache.empty(
        num_rows,
        num_slots,
        num_kv_heads=num_kv_heads,
        head_dim=c.head_dim,
        dtype=jnp.dtype(c.dtype),
    )
    return [own] * c.num_layers  # Arrays are immutable: each layer's step makes its own.


def read(
    model: nn.Module,
    params: Params,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
    first: jax.Array,
    caches: Any,
) -> tuple[jax.Array, jax.Array, Any]:
    """Reads more tokens of each row, from position `first` on; see `start`.

    Returns:
      Logits of the token that comes next, B x V; hidden states, B x L x D; the caches.
    """
    positions_BL = jnp.broadcast_to(first + jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
    # Padding at a row's end is written into slots that new tokens overwrite, each before it is
    # read: a query sees no slot behind its own position.
    output, caches = model.apply(
        {"params": params}, tokens_BL, positions_BL, caches, method="decode_step"
    )
    # Only of the last token are logits needed: those of all would be B x L x V.
    last_B11 = (lengths_B - 1)[:, None, None]
    last_BD = jnp.take_along_axis(output.hidden_BLD, last_B11, axis=1)[:, 0]
    return _logits(last_BD, output.unembed_VD), output.hidden_BLD, caches


def step(
    model: nn.Module, params: Params, tokens_B: jax.Array, positions_B: jax.Array, caches: Any
) -> tuple[jax.Array, Any]:
    """Reads one more token a row -> logits of the next, B x V, and the new caches."""
    output, caches = model.apply(
        {"params": params}, tokens_B[:, None], positions_B[:, None], caches, method="decode_step"
    )
    return _logits(output.hidden_BLD[:, 0], output.unembed_VD), caches


def steps(
    model: nn.Module, params: Params, tokens_L: jax.Array, positions_L: jax.Array, caches: Any
) -> tuple[jax.Array, Any]:
    """Reads several more tokens of one text -> logits behind each, L x V, and the new caches."""
    output, caches = model.apply(
        {"params": params}, tokens_L[None], positions_L[None], caches, method="decode_step"
    )
    return _logits(output.hidden_BLD[0], output.unembed_VD), caches


def logits_of(model: nn.Module, params: Params, hidden_BD: jax.Array) -> jax.Array:
    """Gives the logits of hidden states that `read` has returned, B x D -> B x V."""
    # The method takes states that are not scaled yet; only its table is looked at.
    table_VD = model.apply({"params": params}, hidden_BD[:, None], method="unembed").unembed_VD
    return _logits(hidden_BD, table_VD)


def _logits(hidden_BD: jax.Array, unembed_VD: jax.Array | BlockedMatrix | Int8Matrix) -> jax.Array:
    if isinstance(unembed_VD, BlockedMatrix | Int8Matrix):
        return unembed_VD.product(hidden_BD)
    # The product in the model's dtype, as in training; all that follows it in float32.
    unembed_VD = unembed_VD.astype(hidden_BD.dtype)
    return jnp.einsum("BD,VD->BV", hidden_BD, unembed_VD).astype(jnp.float32)


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Gives what sampling, searching and scoring take of a tokenizer."""
    # A decoder behind an encoder starts from padding, as T5 was pretrained to.
    return {"vocab_size": tokenizer.vocab_size, "start_id": tokenizer.pad_id or 0}


def of_known_ids(logits: jax.Array, vocab_size: int) -> jax.Array:
    """Takes all likelihood from ids of `vocab_size` and above; logits are ... x V.

    A model may have more rows in its embedding than its tokenizer has pieces.
    """
    known_V = jnp.arange(logits.shape[-1]) < vocab_size
    return jnp.where(jnp.broadcast_to(known_V, logits.shape), logits, -jnp.inf)


def check_room(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Checks that prompts leave room for what is written.

    Raises:
      UserError: no new token, an empty prompt, or one that leaves no room in the positions.
    """
    if max_new_tokens < 1:
        raise UserError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if not all(len(prompt) for prompt in prompts):
        raise UserError("an empty prompt needs a tokenizer with a BOS token")
    longest, room = max(map(len, prompts), default=0), model.config.max_len
    if room is not None and longest + max_new_tokens > room:
        raise UserError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} exceed the model's "
            f"{room} positions; shorten one of them"
        )
