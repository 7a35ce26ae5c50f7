"""Token by token through a cache, alike for decoders and for encoders with a decoder.

Dimension key: B batch, L length, M slots or encoder length, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.models import cache, t5
from lm.models.families import family_of
from lm.train.state import Params

_SMALLEST_BUCKET = 32


def bucket(length: int, most: int | None = None) -> int:
    """The next power of two from 32 on, at most `most`: few sizes, so that few are compiled."""
    size = _SMALLEST_BUCKET
    while size < length:
        size *= 2
    return size if most is None else min(size, most)


def lay_out(prompts: Sequence[Sequence[int]], most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Prompts as B x L, filled up with 0 at their ends, and their lengths, B."""
    lengths_B = np.array([len(prompt) for prompt in prompts], np.int32)
    tokens_BL = np.zeros((len(prompts), bucket(lengths_B.max(), most)), np.int32)
    for row, prompt in zip(tokens_BL, prompts, strict=True):
        row[: len(prompt)] = prompt
    return tokens_BL, lengths_B


def start(
    model: nn.Module,
    params: Params,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
    *,
    num_new: int,
    start_id: int,
    vocab_size: int,
) -> tuple[jax.Array, jax.Array, Any]:
    """Reads prompts.

    Args:
      model: a decoder, which goes on from the prompts, or one with an encoder, which reads them and
        starts to write from `start_id`.
      params: of `cache.decoding_params`.
      tokens_BL, lengths_B: see `lay_out`.
      num_new: how many tokens there must be room for.
      start_id: only for a model with an encoder.
      vocab_size: ids from this on have no likelihood.

    Returns:
      Logits of the token that comes next, B x V; the position that it will have, B; the caches.
    """
    family, c = family_of(model), model.config
    B, L = tokens_BL.shape
    if family.architecture == "encoder_decoder":
        segment_ids_BL = (jnp.arange(L)[None] < lengths_B[:, None]).astype(jnp.int32)
        caches = t5.read(c, params, tokens_BL, segment_ids_BL, num_new)
        tokens_BL = jnp.full((B, 1), start_id, jnp.int32)
        lengths_B = jnp.ones(B, jnp.int32)
    else:
        own = cache.empty(
            B,
            L + num_new if c.max_len is None else min(L + num_new, c.max_len),
            num_kv_heads=getattr(c, "num_kv_heads", c.num_heads),
            head_dim=c.head_dim,
            dtype=jnp.dtype(c.dtype),
        )
        caches = [own] * c.num_layers
    positions_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1])[None], tokens_BL.shape)
    x_BLD, embed_VD, caches = family.decode(c, params, tokens_BL, positions_BL, caches)
    # Only of the last token are logits needed.
    last_BD = jnp.take_along_axis(x_BLD, (lengths_B - 1)[:, None, None], axis=1)[:, 0]
    return _logits(last_BD, embed_VD, vocab_size), lengths_B, caches


def step(
    model: nn.Module,
    params: Params,
    tokens_B: jax.Array,
    positions_B: jax.Array,
    caches: Any,
    *,
    vocab_size: int,
) -> tuple[jax.Array, Any]:
    """Reads one more token a row -> logits of the next, B x V, and the new caches."""
    x_BLD, embed_VD, caches = family_of(model).decode(
        model.config, params, tokens_B[:, None], positions_B[:, None], caches
    )
    return _logits(x_BLD[:, 0], embed_VD, vocab_size), caches


def _logits(x_BD: jax.Array, embed_VD: jax.Array, vocab_size: int) -> jax.Array:
    logits_BV = jnp.einsum("BD,VD->BV", x_BD, embed_VD).astype(jnp.float32)
    known_V = jnp.arange(logits_BV.shape[-1]) < vocab_size
    return jnp.where(known_V[None], logits_BV, -jnp.inf)


def check_room(model: nn.Module, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
    """Whether prompts can be gone on from.

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


def batches(prompts: Sequence[Sequence[int]], batch_size: int) -> list[list[int]]:
    """The prompts by their indices, those of like length together, `batch_size` at a time."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
