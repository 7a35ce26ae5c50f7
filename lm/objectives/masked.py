"""Masked language modelling, for encoders.

Dimension key: B batch, L length, P predicted tokens, V vocabulary.
"""

import jax
import jax.numpy as jnp

from lm.corpus.rows import Rows
from lm.objectives.batch import Batch, row_keys
from lm.tokenizers.vocabulary import Vocabulary


def masked(
    rows: Rows,
    key: jax.Array,
    *,
    vocabulary: Vocabulary,
    rate: float,
    mask_share: float,
    random_share: float,
    whole_words: bool,
) -> Batch:
    """Hides some tokens, which must be found again (Devlin et al. 2019, section 3.1).

    Which ones is drawn anew whenever a row is seen, as RoBERTa does (Liu et al. 2019, section 4.1).
    Special tokens and padding are never chosen. A literal row in which `b` and `e` were chosen, the
    one masked and the other replaced by `x`:

        tokens      <s>  a    b    c    d    e    </s>
        read        <s>  a    <mask> c  d    x    </s>
        predict     2 5
        targets     b e
        weights     1 1

    Args:
      rows: packed rows of L tokens.
      key: of the step.
      vocabulary: has a mask token.
      rate: this share of a row's tokens is chosen, rounded, at least one.
      mask_share: of the chosen ones, the share that the mask token replaces.
      random_share: the share that any ordinary token replaces; the rest stays as it is.
      whole_words: chooses words; a word that would exceed the rate is left, so that a little less
        may be chosen.

    Returns:
      Targets and weights are B x P, with P = rate x L, for the positions in `predict_BP`.
    """
    special_V, ordinary = jnp.asarray(vocabulary.special_V), jnp.asarray(vocabulary.ordinary)
    joined_V = jnp.asarray(vocabulary.joins_left_V), jnp.asarray(vocabulary.joins_right_V)
    L = rows.tokens_BL.shape[1]
    P = max(1, round(rate * L))

    def one_row(key, tokens_L, segment_ids_L):
        choose_key, kind_key, token_key = jax.random.split(key, 3)
        maskable_L = (segment_ids_L > 0) & ~special_V[tokens_L]
        words_L = jnp.arange(L)
        if whole_words:
            words_L = _words(tokens_L, segment_ids_L, *joined_V)
        num_maskable = jnp.sum(maskable_L)
        # Of what there is in this row, but never more than the P places that all rows have.
        count = jnp.clip(jnp.round(rate * num_maskable).astype(int), 1, P)
        chosen_L = maskable_L & _choose(choose_key, maskable_L, words_L, count)
        kind_L = jax.random.uniform(kind_key, (L,))
        drawn_L = ordinary[jax.random.randint(token_key, (L,), 0, len(ordinary))]
        read_L = jnp.where(kind_L < mask_share + random_share, drawn_L, tokens_L)
        read_L = jnp.where(kind_L < mask_share, vocabulary.mask_id, read_L)
        # Stable: the chosen ones first and in their order, then others, whose weight is 0.
        predict_P = jnp.argsort(~chosen_L, stable=True)[:P]
        return jnp.where(chosen_L, read_L, tokens_L), predict_P, chosen_L[predict_P]

    keys_B = row_keys(key, rows.ids_B)
    read_BL, predict_BP, chosen_BP = jax.vmap(one_row)(keys_B, rows.tokens_BL, rows.segment_ids_BL)
    inputs = {
        "tokens_BL": read_BL,
        "positions_BL": rows.positions_BL,
        "segment_ids_BL": rows.segment_ids_BL,
        "predict_BP": predict_BP,
    }
    targets_BP = jnp.take_along_axis(jnp.asarray(rows.tokens_BL), predict_BP, axis=1)
    return Batch(inputs, targets_BP, chosen_BP.astype(jnp.float32))


def _words(tokens_L, segment_ids_L, joins_left_V, joins_right_V):
    """Numbers the words along the row, and gives each token that of its word."""
    joined_L = joins_left_V[tokens_L[1:]] & joins_right_V[tokens_L[:-1]]
    joined_L = joined_L & (segment_ids_L[1:] == segment_ids_L[:-1])
    return jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), ~joined_L]))


def _choose(key, maskable_L, words_L, count):
    """Chooses words in random order, as long as they have `count` tokens together at most."""
    L = maskable_L.shape[0]
    # One draw a word; 2 is behind all of them. Tokens of a word tie, and stay side by side.
    score_L = jnp.where(maskable_L, jax.random.uniform(key, (L,))[words_L], 2.0)
    rank_L = jnp.argsort(jnp.argsort(score_L, stable=True))
    last_rank_L = jax.ops.segment_max(rank_L, words_L, L)[words_L]
    return last_rank_L < count
