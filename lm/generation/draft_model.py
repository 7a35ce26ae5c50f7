"""Guesses what a text goes on with by a smaller model; `speculative` checks what is guessed.

Dimension key: L tokens that are read, D drafted tokens, V vocabulary.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.generation import decoding, sampling
from lm.generation.sampling import DrawSettings
from lm.generation.speculative import DRAFT_LEN
from lm.models.families import family_of
from lm.models.kv_cache import unstack_for_decoding
from lm.models.parameters import Params

_READ_LEN = 2 * (DRAFT_LEN + 1)  # What gathers while no drafts are asked for is read by one pass.


class DraftModel:
    """Guesses the tokens that a smaller model would write; a `speculative.Guess` for one text.

    It draws by the very keys that the text is drawn by. A guess then holds with probability at
    least (1 - d) / (1 + d), where d is the total variation distance of the two distributions, and
    needs no acceptance rule of its own (Daliri et al. 2024, on Gumbel sampling).

    Args:
      model: a decoder that knows the ids of the model that checks.
      params: of the model, or its `unstack_for_decoding`, made once for many texts.
      prompt, key, copy, vocab_size, max_new_tokens: see `speculative.sample`.
      draws: temperature and so on; see `sampling.sample`.

    Raises:
      UserError: the model has an encoder, or too few positions.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        prompt: Sequence[int],
        key: jax.Array,
        *,
        copy: int,
        vocab_size: int,
        max_new_tokens: int,
        **draws: float,
    ):
        if family_of(model).architecture != "decoder":
            raise UserError("drafts are written by decoders alone; name one, or go without")
        try:
            decoding.check_room(model, [prompt], max_new_tokens)
        except UserError as error:
            raise UserError(f"draft: {error}") from None
        params = unstack_for_decoding(params, model.config.dtype)
        row_key = jax.random.fold_in(key, np.uint32(sampling.draw_index(prompt, copy)))
        self._propose = functools.partial(_propose, model, params, row_key, draws, vocab_size)
        self._num_prompt = len(prompt)
        tokens_BL, lengths_B = decoding.padded([prompt], model.config.max_len)
        num_new = decoding.bucket(max_new_tokens + DRAFT_LEN)
        self._caches = _begin(model, params, tokens_BL, lengths_B, num_new=num_new)
        self._read = list(prompt)  # The tokens whose keys and values are cached, by position.
        self._seen_V = np.zeros(model.config.vocab_size, bool)
        self._num_seen = 0  # Tokens of the text that are in there.

    def __call__(self, text: Sequence[int]) -> Sequence[int]:
        """Returns what would follow a text that begins with the prompt."""
        differs = (i for i, (a, b) in enumerate(zip(self._read, text, strict=False)) if a != b)
        num_read = min(next(differs, len(self._read)), len(text) - 1)
        self._seen_V[list(text[self._num_seen :])] = True
        self._num_seen = len(text)
        draft_D = None
        for at in range(num_read, len(text), _READ_LEN):  # One pass, unless much has gathered.
            unread = text[at : at + _READ_LEN]
            tokens_L = np.zeros(_READ_LEN, np.int32)
            tokens_L[: len(unread)] = unread
            turn = at + len(unread) - self._num_prompt
            draft_D, self._caches = self._propose(
                tokens_L, len(unread), at, turn, self._seen_V, self._caches
            )
        draft = np.asarray(draft_D).tolist()
        self._read = [*text, *draft]
        return draft


@functools.partial(jax.jit, static_argnames=("model", "num_new"))
def _begin(model, params, tokens_BL, lengths_B, *, num_new) -> Any:
    """Reads a prompt -> caches."""
    return decoding.start(model, params, tokens_BL, lengths_B, num_new=num_new, start_id=0)[2]


@functools.partial(jax.jit, static_argnames=("model",), donate_argnames=("caches",))
def _propose(
    model, params, key, draws, vocab_size, tokens_L, num, position, turn, seen_V, caches
) -> tuple[jax.Array, Any]:
    """Reads the first `num` tokens, and drafts what follows -> the draft, caches."""
    at_L = jnp.arange(len(tokens_L))
    logits_LV, caches = decoding.steps(model, params, tokens_L, position + at_L, caches)
    settings = DrawSettings.of(1, **draws)

    def add_token(carry, i):
        logits_1V, so_far_1V, caches = carry
        known_1V = decoding.of_known_ids(logits_1V, vocab_size)
        token_1 = sampling.draw(known_1V, key[None], turn[None] + i, so_far_1V, settings)
        logits_1V, caches = decoding.step(model, params, token_1, position[None] + num + i, caches)
        return (logits_1V, sampling.also_seen(so_far_1V, token_1), caches), token_1[0]

    first = logits_LV[num - 1][None], seen_V[None], caches
    (_, _, caches), draft_D = jax.lax.scan(add_token, first, jnp.arange(DRAFT_LEN))
    return draft_D, caches
