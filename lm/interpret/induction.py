"""Which heads copy what stood behind a token when it was read before (Olsson et al. 2022).

Dimension key: N layers, B sequences, H heads, L query length, M key length, V vocabulary.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.errors import UserError
from lm.interpret.subject import Subject, run_model

_SITE = "layers/attention/probs.out"


class Induction(NamedTuple):
    """What each head attends to in random sequences that are read twice, on average.

    copying_NH: of the second reading, attention to the token behind the same one in the first.
    previous_NH: of both, attention to the token before.
    first_loss, second_loss: mean negative log-likelihoods of both, in nats; of the second reading
      from its second token on, which is the first that can be copied.
    """

    copying_NH: np.ndarray
    previous_NH: np.ndarray
    first_loss: float
    second_loss: float


def induction(
    subject: Subject, *, num_sequences: int, sequence_len: int, seed: int
) -> tuple[Induction, np.ndarray]:
    """Lets a decoder read random tokens twice, `a b c a b c`, each sequence by itself.

    All tokens of a sequence differ, and none is special, so that nothing but the first reading says
    what comes next.

    Args:
      subject: a decoder.
      num_sequences: how many are read.
      sequence_len: their tokens, without the second reading.
      seed: draws them.

    Returns:
      The averages, and the tokens, B x L with both readings.

    Raises:
      UserError: no language model that is a decoder; sequences that do not fit.
    """
    if subject.body or subject.architecture != "decoder":
        raise UserError(
            f"{subject.folder} is no decoder of language, which what=induction needs: heads that "
            "copy look back from a token to what followed it"
        )
    tokenizer, most = subject.run.tokenizer, subject.model.config.max_len
    if most is not None and 2 * sequence_len > most:
        raise UserError(
            f"sequence_len={sequence_len} is read twice, and the model has {most} positions; give "
            f"{most // 2} at most"
        )
    ids = [i for i in range(tokenizer.vocab_size) if not tokenizer.is_special(i)]
    if len(ids) < sequence_len:
        raise UserError(
            f"sequence_len={sequence_len} exceeds the {len(ids)} tokens of the vocabulary that are "
            "not special; give fewer"
        )
    rng = np.random.default_rng(seed)
    tokens_BL = np.stack([rng.permutation(ids)[:sequence_len] for _ in range(num_sequences)])
    tokens_BL = np.tile(tokens_BL, 2).astype(np.int32)
    copying, previous, losses = jax.device_get(_read(subject.model, subject.params, tokens_BL))
    found = Induction(copying, previous, *map(float, losses))
    return found, tokens_BL


@functools.partial(jax.jit, static_argnums=0)
def _read(model, params, tokens_BL):
    L = tokens_BL.shape[1]
    T = L // 2

    def one(tokens_L):
        at_L = jnp.arange(L)
        inputs = dict(tokens_BL=tokens_L[None], positions_BL=at_L[None], segment_ids_BL=None)
        logits_BLV, seen = run_model(model, params, inputs, keep=(_SITE,))
        probs_NHLM = seen[_SITE][:, 0].astype(jnp.float32)
        of = lambda at, back: jnp.mean(probs_NHLM[:, :, at, at - back], axis=-1)
        log_probs_LV = jax.nn.log_softmax(logits_BLV[0, :-1])
        loss_L = -jnp.take_along_axis(log_probs_LV, tokens_L[1:, None], axis=-1)[:, 0]
        # The first token of either reading is foretold by nothing.
        losses = jnp.mean(loss_L[: T - 1]), jnp.mean(loss_L[T:])
        return of(at_L[T:], T - 1), of(at_L[1:], 1), jnp.stack(losses)

    # One at a time: no more memory than one sequence takes.
    return jax.tree.map(lambda x: jnp.mean(x, axis=0), jax.lax.map(one, tokens_BL))
