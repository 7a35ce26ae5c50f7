import functools

import jax
import numpy as np
import pytest

from lm.corpus.packing import Piece
from lm.objectives.masked import masked
from lm.tokenizers.vocabulary import Vocabulary
from tests.tiny import rows_of

PAD, BOS, EOS, MASK, V = 0, 1, 2, 3, 200
SETTINGS = dict(rate=0.15, mask_share=0.8, random_share=0.1, whole_words=False)


def vocabulary(joins=()):
    special_V = np.arange(V) <= MASK
    joins_V = np.isin(np.arange(V), joins)
    return Vocabulary(PAD, EOS, MASK, np.array([]), special_V, joins_V, np.ones(V, bool))


def rows(count=4, length=64):
    """A document of ordinary tokens, one that goes on elsewhere, and some padding."""
    first = [BOS, *range(10, 10 + length // 2), EOS]
    second = [BOS, *range(100, 100 + length // 4)]
    return rows_of([[Piece(np.array(first), -1), Piece(np.array(second), 9)]] * count, length)


def mask(rows, seed=0, joins=(), **changes):
    objective = functools.partial(masked, vocabulary=vocabulary(joins), **SETTINGS | changes)
    return jax.device_get(jax.jit(objective)(rows, jax.random.key(seed)))


def chosen(batch, b):
    return batch.inputs["predict_BP"][b][batch.weights_BL[b] > 0]


def test_a_row_as_a_table():
    rows = rows_of([[Piece(np.array([BOS, 10, 11, 12, 13, 14, EOS]), -1)]], 8)
    batch = mask(rows, rate=0.5, mask_share=1.0, random_share=0.0)

    at = chosen(batch, 0)
    assert len(at) == 2  # Half of 5, rounded to even; P is half of 8.
    assert batch.targets_BL.shape == (1, 4)
    expected = rows.tokens_BL[0].copy()
    expected[at] = MASK
    np.testing.assert_array_equal(batch.inputs["tokens_BL"][0], expected)
    np.testing.assert_array_equal(
        batch.targets_BL[0][batch.weights_BL[0] > 0], rows.tokens_BL[0][at]
    )
    np.testing.assert_array_equal(batch.inputs["segment_ids_BL"], rows.segment_ids_BL)
    np.testing.assert_array_equal(batch.inputs["positions_BL"], rows.positions_BL)


def test_special_tokens_and_padding_are_never_touched():
    packed = rows(200)
    batch = mask(packed, rate=0.9)

    special = packed.tokens_BL <= MASK
    np.testing.assert_array_equal(batch.inputs["tokens_BL"][special], packed.tokens_BL[special])
    for b in range(200):
        assert (packed.tokens_BL[b][chosen(batch, b)] > MASK).all()
        assert (packed.segment_ids_BL[b][chosen(batch, b)] > 0).all()


def test_eighty_ten_ten():
    packed = rows(2000)
    batch = mask(packed)

    before = np.take_along_axis(packed.tokens_BL, batch.inputs["predict_BP"], axis=1)
    after = np.take_along_axis(batch.inputs["tokens_BL"], batch.inputs["predict_BP"], axis=1)
    there = batch.weights_BL > 0
    before, after = before[there], after[there]
    assert len(before) == 2000 * round(0.15 * 48)
    assert np.mean(after == MASK) == pytest.approx(0.8, abs=0.02)
    assert np.mean(after == before) == pytest.approx(0.1, abs=0.02)
    drawn = after[(after != MASK) & (after != before)]
    assert drawn.min() > MASK and len(np.unique(drawn)) > 150
    counts = np.bincount(before, minlength=V)  # All tokens alike, wherever they stand.
    assert counts[10:42].min() > 200 and counts[10:42].max() < 400


def test_what_is_chosen_depends_on_the_key_and_the_row_alone():
    packed = rows(5)
    batch, again, other = mask(packed), mask(packed), mask(packed, seed=1)
    one = mask(jax.tree.map(lambda x: x[3:4], packed))

    jax.tree.map(np.testing.assert_array_equal, batch, again)
    jax.tree.map(np.testing.assert_array_equal, one, jax.tree.map(lambda x: x[3:4], batch))
    assert (batch.inputs["predict_BP"] != other.inputs["predict_BP"]).any()
    assert (batch.inputs["predict_BP"][0] != batch.inputs["predict_BP"][1]).any()


def test_a_word_ends_with_its_document():
    pieces = [Piece(np.array([10, 11, 12]), 13), Piece(np.array([14, 15]), -1)]
    packed = rows_of([pieces] * 50, 5)
    batch = mask(packed, joins=range(10, 20), whole_words=True, rate=0.6)

    found = {tuple(chosen(batch, b)) for b in range(50)}
    assert found == {(0, 1, 2), (3, 4)}


def test_whole_words_are_chosen_as_a_whole():
    # Words of three tokens: 10 11 12, 13 14 15, ...; the others stand alone.
    joins = [i for i in range(10, 40) if i % 3 != 1]
    packed = rows(300)
    batch = mask(packed, joins=joins, whole_words=True, rate=0.3)

    num_chosen = []
    for b in range(300):
        words = packed.tokens_BL[b][chosen(batch, b)]
        in_words = words[(words >= 10) & (words < 40)]
        assert np.all(np.bincount((in_words - 10) // 3, minlength=10) % 3 == 0)
        num_chosen.append(len(words))
    limit = round(0.3 * 48)
    assert max(num_chosen) <= limit
    assert np.mean(num_chosen) > limit - 3
