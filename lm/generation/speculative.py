"""Writes several tokens a step: a draft is guessed, and one pass of the model checks all of it.

Each token is drawn from the model's own logits, by the key that it is drawn by without a draft; a
draft is kept as far as it says the same (Leviathan et al. 2023, with a draft that is certain). So
texts and their distribution are those of `sampling.sample`, but where two tokens are as likely as
float32 can tell: it rounds a pass of several tokens in another way than one of many rows.

Dimension key: L tokens of a draft and the one before, V vocabulary, M slots.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.generation import decoding, sampling
from lm.generation.sampling import DrawSettings, Sample
from lm.models.families import family_of
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params

DRAFT_LEN = 7  # With the token before it there are eight, which cost a CPU hardly more than two.
_LONGEST, _SHORTEST = 4, 2  # Tokens that an earlier place must share with the end of a text.
_PATIENCE = 8  # Steps without a draft behind two drafts of which nothing was kept.

Guess = Callable[[Sequence[int]], Sequence[int]]  # A text so far -> what may follow it.


class Lookup:
    """Guesses that a text goes on as it did where its last tokens stood before (prompt lookup,
    Saxena 2023)."""

    def __init__(self):
        self._num_read = 0
        # Where what follows the last place of a few tokens begins.
        self._after: dict[tuple[int, ...], int] = {}

    def __call__(self, text: Sequence[int]) -> Sequence[int]:
        """Returns what followed the same tokens last time; nothing where they are new."""
        # Not the end itself, which nothing follows yet.
        for end in range(max(self._num_read, _SHORTEST), len(text)):
            for num in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._after[tuple(text[end - num : end])] = end
        self._num_read = len(text)
        for num in range(min(_LONGEST, len(text)), _SHORTEST - 1, -1):
            found = self._after.get(tuple(text[len(text) - num :]))
            if found is not None:
                return text[found : found + DRAFT_LEN]
        return ()


def sample(
    model: nn.Module,
    params: Params,
    prompt: Sequence[int],
    key: jax.Array,
    *,
    guess: Guess,
    vocab_size: int,
    max_new_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    stop_ids: Sequence[int],
    min_p: float = 0.0,
    repetition_penalty: float = 1.0,
    is_ended: Callable[[Sequence[int]], bool] = lambda new: False,
    copy: int = 0,
) -> tuple[Sample, int]:
    """Continues a prompt as `sampling.sample` does, with a guess of what follows.

    Args:
      model: a decoder.
      guess: makes drafts; what it says changes only how long it takes.
      is_ended: whether a text needs no more tokens; asked after each pass.
      copy: how often the prompt came before, which says what is drawn; see `draw_index`.

    Returns:
      What was drawn, and the number of passes of the model.

    Raises:
      UserError: as `sampling.sample`; a model with an encoder.
    """
    if family_of(model).architecture != "decoder":
        raise UserError("drafts are checked by decoders alone; go without one")
    decoding.check_room(model, [prompt], max_new_tokens)
    how = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    how |= dict(repetition_penalty=repetition_penalty)
    sampling.check(**how)
    params = unstack_for_decoding(params, model.config.dtype)
    tokens_BL, lengths_B = decoding.padded([prompt], model.config.max_len)
    row_key = jax.random.fold_in(key, np.uint32(sampling.draw_index(prompt, copy)))
    # Room for a draft that goes on behind the last token; where the model has none, it is dropped.
    num_new = decoding.bucket(max_new_tokens + DRAFT_LEN)
    token, seen_V, caches = _begin(
        model, params, tokens_BL, lengths_B, row_key, how, vocab_size, num_new=num_new
    )
    new, num_passes, num_failed, rest = [int(token)], 1, 0, 0
    while len(new) < max_new_tokens and new[-1] not in stop_ids and not is_ended(new):
        draft = list(guess([*prompt, *new]))[:DRAFT_LEN] if rest == 0 else []
        rest = max(rest - 1, 0)
        L = DRAFT_LEN + 1 if draft else 1
        tokens_L = np.array((new[-1:] + draft + [0] * L)[:L], np.int32)
        at = len(prompt) + len(new) - 1, len(new)
        drawn_L, seen_V, num_kept, caches = _check(
            model, params, tokens_L, len(draft), *at, row_key, how, vocab_size, seen_V, caches
        )
        num_passes += 1
        found = np.asarray(drawn_L)[: int(num_kept) + 1].tolist()
        end = next((i for i, token in enumerate(found) if token in stop_ids), len(found))
        new += found[: end + 1]
        if draft:
            num_failed = 0 if num_kept else num_failed + 1
            if num_failed >= 2:
                num_failed, rest = 0, _PATIENCE
    new = new[:max_new_tokens]
    has_ended = new[-1] in stop_ids
    return Sample(new[:-1] if has_ended else new, new[-1] if has_ended else None), num_passes


@functools.partial(jax.jit, static_argnames=("model", "num_new"))
def _begin(model, params, tokens_BL, lengths_B, key, how, vocab_size, *, num_new):
    """Reads a prompt, and draws its first token."""
    logits_BV, _, caches = decoding.start(
        model, params, tokens_BL, lengths_B, num_new=num_new, start_id=0
    )
    logits_BV = decoding.of_known_ids(logits_BV, vocab_size)
    seen_BV = sampling.seen(model, tokens_BL, lengths_B, start_id=0, num_ids=logits_BV.shape[1])
    settings = DrawSettings.of(1, **how)
    token_B = sampling.draw(logits_BV, key[None], jnp.zeros(1, jnp.int32), seen_BV, settings)
    return token_B[0], sampling.also_seen(seen_BV, token_B)[0], caches


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("caches",))
def _check(
    model, params, tokens_L, num_drafted, position, turn, key, how, vocab_size, seen_V, caches
) -> tuple[jax.Array, jax.Array, jax.Array, Any]:
    """Draws what follows each token -> those, what was seen, how many of the draft hold, caches."""
    L = len(tokens_L)
    at_L = jnp.arange(L)
    logits_LV, caches = decoding.steps(model, params, tokens_L, position + at_L, caches)
    logits_LV = decoding.of_known_ids(logits_LV, vocab_size)
    # Before the token behind place i, the first i of the draft were seen as well.
    ids_L = jnp.where((at_L >= 1) & (at_L <= num_drafted), tokens_L, logits_LV.shape[1])
    is_before_LL = at_L[None] <= at_L[:, None]
    places_LL = jnp.where(is_before_LL, ids_L[None], logits_LV.shape[1])
    seen_LV = jnp.broadcast_to(seen_V, logits_LV.shape)
    seen_LV = seen_LV.at[at_L[:, None], places_LL].set(True, mode="drop")
    keys_L = jnp.broadcast_to(key, (L,))
    drawn_L = sampling.draw(logits_LV, keys_L, turn + at_L, seen_LV, DrawSettings.of(L, **how))
    is_kept_L = (drawn_L[:-1] == tokens_L[1:]) & (at_L[:-1] < num_drafted)
    num_kept = jnp.sum(jnp.cumprod(is_kept_L))
    seen_V = seen_LV[num_kept].at[drawn_L[num_kept]].set(True)
    return drawn_L, seen_V, num_kept, caches
