"""Beam search: finds the likeliest continuations, whose log-probability a length penalty divides.

Dimension key: B batch, L length, N new tokens, V vocabulary, W beams, C candidates.
"""

import functools
from collections.abc import Sequence
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

_NEVER = -1e9  # The score of what cannot be chosen; finite, so that differences are numbers.


class Hypothesis(NamedTuple):
    """Holds one continuation."""

    tokens: list[int]  # Without the token that ended it.
    score: float
    stop_id: int | None  # The token that ended it; None where none did.


def search(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float,
    early_stopping: bool,
    stop_ids: Sequence[int],
    start_id: int = 0,
    batch_size: int = 16,
) -> list[list[Hypothesis]]:
    """Finds the `num_beams` best continuations of each prompt, best first.

    They are those of `generate(num_beams=...)` of `transformers`: a hypothesis of n tokens, its
    last one included, scores its log-probability / n^length_penalty (Wu et al. 2016, section 7, has
    another formula).

    Args:
      model, params, prompts, vocab_size, max_new_tokens, stop_ids, start_id, batch_size: see
        `sampling.generate`.
      num_beams: at least 1.
      length_penalty: above 0 favours long continuations, below 0 short ones.
      early_stopping: whether to stop as soon as there are `num_beams` hypotheses; otherwise when
        the best unfinished one would score less than all of them, if it ended now.

    Raises:
      UserError: see `sampling.generate`.
    """
    decoding.check_room(model, prompts, max_new_tokens)
    check(num_beams, length_penalty)
    # At most S tokens end a beam, so that of W x (1 + S) candidates W can go on.
    num_candidates = num_beams * max(2, 1 + len(stop_ids))
    if num_candidates > num_beams * vocab_size:
        raise UserError(f"num_beams={num_beams} is too many for {vocab_size} tokens")
    params = unstack_for_decoding(params, model.config.dtype)
    found: dict[int, list[Hypothesis]] = {}
    for batch in decoding.batches(prompts, batch_size, model.config.max_len):
        beams = _search(
            model,
            params,
            *shard_like(params, (batch.tokens_BL, batch.lengths_B)),
            num_new=decoding.bucket(max_new_tokens),
            max_new_tokens=max_new_tokens,
            vocab_size=vocab_size,
            num_beams=num_beams,
            num_candidates=num_candidates,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            stop_ids=np.array(list(stop_ids) or [-1]),  # No token is -1.
            start_id=start_id,
        )
        beams = to_host(beams)
        for b, index in enumerate(batch.indices):  # The first rows: others only fill up.
            found[index] = [_hypothesis(beams, b, w, stop_ids) for w in range(num_beams)]
    return [found[i] for i in range(len(prompts))]


def check(num_beams: int, length_penalty: float) -> None:
    """Raises UserError where one of these is out of its range, or no number; see `search`."""
    if num_beams < 1:
        raise UserError(f"num_beams={num_beams} must be at least 1")
    if not abs(length_penalty) <= float(np.finfo(np.float32).max):  # Also of NaN.
        raise UserError(f"length_penalty={length_penalty} must be a number that float32 holds")


@struct.dataclass
class _Beams:
    """Holds W beams of each prompt, best first, or C candidates, from which such are chosen."""

    tokens_BWN: Any
    score_BW: Any  # float32; of running beams the log-probability, of finished ones divided.
    length_BW: Any  # How many tokens of N there are; 0 for a finished beam that is not there yet.

    def best(self, rank_BC: jax.Array, num: int) -> tuple["_Beams", jax.Array]:
        """Takes the `num` beams of the highest rank, their new score, and says where they stood."""
        score_BW, index_BW = jax.lax.top_k(rank_BC, num)
        return _Beams(
            jnp.take_along_axis(self.tokens_BWN, index_BW[:, :, None], axis=1),
            score_BW,
            jnp.take_along_axis(self.length_BW, index_BW, axis=1),
        ), index_BW


def _hypothesis(beams: _Beams, b: int, w: int, stop_ids: Sequence[int]) -> Hypothesis:
    tokens = beams.tokens_BWN[b, w, : beams.length_BW[b, w]].tolist()
    stop_id = tokens.pop() if tokens and tokens[-1] in stop_ids else None
    return Hypothesis(tokens, float(beams.score_BW[b, w]), stop_id)


@functools.partial(jax.jit, static_argnames=("model", "num_new", "num_beams", "num_candidates"))
def _search(
    model,
    params,
    tokens_BL,
    lengths_B,
    *,
    num_new,
    max_new_tokens,
    vocab_size,
    num_beams,
    num_candidates,
    length_penalty,
    early_stopping,
    stop_ids,
    start_id,
):
    """Searches each row's W finished beams."""
    B, W = tokens_BL.shape[0], num_beams
    logits_BV, positions_B, caches = decoding.start(
        model, params, tokens_BL, lengths_B, num_new=num_new, start_id=start_id
    )
    # A prompt is read once; only then has each of its beams a cache, B x ... -> BW x ...
    caches = jax.tree.map(lambda x: jnp.repeat(x, W, axis=0), caches)  # Rows of one prompt adjoin.
    first_B1 = jnp.arange(B)[:, None] * W
    penalty = lambda length: jnp.asarray(length, jnp.float32) ** length_penalty

    def extend(turn, logits_BWV, running, finished, may_improve_B):
        """Adds a token; returns the next running beams, their origins, and the finished ones."""
        V = logits_BWV.shape[-1]
        logits_BWV = decoding.of_known_ids(logits_BWV, vocab_size)
        total_BWV = running.score_BW[:, :, None] + jax.nn.log_softmax(logits_BWV)
        # Over beams and tokens at once, so that one beam may give several of the next.
        score_BC, flat_BC = jax.lax.top_k(total_BWV.reshape(B, W * V), num_candidates)
        origin_BC, token_BC = flat_BC // V, flat_BC % V
        tokens_BCN = jnp.take_along_axis(running.tokens_BWN, origin_BC[:, :, None], axis=1)
        candidates = _Beams(
            tokens_BCN.at[:, :, turn].set(token_BC), score_BC, jnp.full_like(origin_BC, turn + 1)
        )
        ends_BC = jnp.isin(token_BC, stop_ids) | (turn + 1 >= max_new_tokens)
        running, index_BW = candidates.best(score_BC + jnp.where(ends_BC, _NEVER, 0.0), W)
        origin_BW = jnp.take_along_axis(origin_BC, index_BW, axis=1)
        # Only what ranks among the first W may end; the rest is there so that W can go on.
        counts_BC = ends_BC & (jnp.arange(num_candidates) < W)[None]
        is_full_B = jnp.all(finished.length_BW > 0, axis=1)
        counts_BC &= (may_improve_B & ~(is_full_B & early_stopping))[:, None]
        ended = candidates.replace(
            score_BW=jnp.where(counts_BC, score_BC / penalty(turn + 1), _NEVER),
            length_BW=jnp.where(counts_BC, candidates.length_BW, 0),
        )
        # Finished ones stand first, for of equal scores `top_k` takes the first: the older stays.
        both = jax.tree.map(lambda *xs: jnp.concatenate(xs, axis=1), finished, ended)
        finished, _ = both.best(both.score_BW, W)
        best_B = running.score_BW[:, 0] / penalty(turn + 1)  # If it ended now.
        is_full_B = jnp.all(finished.length_BW > 0, axis=1)
        may_improve_B &= ~is_full_B | (best_B > jnp.min(finished.score_BW, axis=1))
        return running, origin_BW, finished, may_improve_B & ~(is_full_B & early_stopping)

    def is_unfinished(carry):
        turn, _, _, may_improve_B, _ = carry
        return (turn < max_new_tokens) & jnp.any(may_improve_B)

    def add_token(carry):
        turn, running, finished, may_improve_B, caches = carry
        last_BW = jax.lax.dynamic_index_in_dim(running.tokens_BWN, turn - 1, 2, keepdims=False)
        at_BW = jnp.broadcast_to((positions_B + turn - 1)[:, None], (B, W))
        # X is BW: to the model, beams are rows.
        logits_XV, caches = decoding.step(
            model, params, last_BW.reshape(-1), at_BW.reshape(-1), caches
        )
        running, origin_BW, finished, may_improve_B = extend(
            turn, logits_XV.reshape(B, W, -1), running, finished, may_improve_B
        )
        rows = (first_B1 + origin_BW).reshape(-1)  # Each beam goes on from its origin's cache.
        caches = jax.tree.map(lambda x: x[rows], caches)
        return turn + 1, running, finished, may_improve_B, caches

    none = _Beams(
        jnp.zeros((B, W, num_new), jnp.int32),
        jnp.full((B, W), _NEVER, jnp.float32),
        jnp.zeros((B, W), jnp.int32),
    )
    # All beams are the same at first: only the first counts, else each token came W times.
    alone = none.replace(score_BW=none.score_BW.at[:, 0].set(0.0))
    logits_BWV = jnp.broadcast_to(logits_BV[:, None], (B, W, logits_BV.shape[-1]))
    running, _, finished, may_improve_B = extend(0, logits_BWV, alone, none, jnp.ones(B, bool))
    state = (jnp.int32(1), running, finished, may_improve_B, caches)
    return jax.lax.while_loop(is_unfinished, add_token, state)[2]
