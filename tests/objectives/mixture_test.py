import functools

import jax
import numpy as np
import pytest

from experiments.wiring.objectives import check, make_objective
from lm.corpus.packing import Piece
from lm.errors import UserError
from lm.objectives.causal import causal, prefix
from tests.objectives.spans_test import documents, vocabulary
from tests.tiny import rows_of

SPANS = dict(kind="span_corruption", noise_density=0.15, mean_span_length=3.0)
UL2 = dict(
    kind="mixture",
    parts=dict(
        regular=SPANS | dict(weight=2.0),
        extreme=SPANS | dict(weight=1.0, noise_density=0.5, mean_span_length=16.0),
        sequential=dict(kind="prefix", weight=1.0, suffix_share=0.25),
    ),
)


def make(block, architecture="encoder_decoder"):
    objective = make_objective(
        block, architecture=architecture, vocabulary=vocabulary(), seq_len=64
    )
    return jax.jit(objective)


def test_rows_are_dealt_out_by_weight_to_what_each_objective_makes_of_them():
    rows = rows_of([documents(64)] * 400, 64)
    mixed = jax.device_get(make(UL2)(rows, jax.random.key(0)))

    num_targets = mixed.weights_BL.sum(axis=1)
    marks = np.isin(mixed.inputs["encoder_tokens_BM"], vocabulary().sentinel_ids).sum(axis=1)
    kinds, counts = np.unique(
        list(zip(num_targets, marks, strict=True)), axis=0, return_counts=True
    )
    by_kind = dict(zip(map(tuple, kinds.tolist()), counts / 400, strict=True))
    # regular: 10 tokens in 3 spans; extreme: 32 in 2; sequential: 16 behind no sentinel.
    expected = {(14, 3): 0.5, (35, 2): 0.25, (17, 0): 0.25}
    assert by_kind.keys() == expected.keys()
    for kind, share in expected.items():
        assert by_kind[kind] == pytest.approx(share, abs=0.08)


def test_a_mixture_deals_out_a_row_alike_wherever_it_is():
    rows = rows_of([documents(64)] * 8, 64)
    parts = {name: part for name, part in UL2["parts"].items() if name != "extreme"}
    objective, key = make(UL2 | dict(parts=parts)), jax.random.key(3)

    whole = jax.device_get(objective(rows, key))
    turned = jax.device_get(objective(jax.tree.map(lambda x: x[::-1], rows), key))

    jax.tree.map(np.testing.assert_array_equal, turned, jax.tree.map(lambda x: x[::-1], whole))
    assert len(np.unique(whole.weights_BL.sum(axis=1))) > 1  # More than one objective was drawn.


def test_decoders_mix_causal_rows_with_prefixes():
    block = dict(
        kind="mixture",
        parts=dict(
            left=dict(kind="causal", weight=1.0),
            both=dict(kind="prefix", suffix_share=0.5, weight=1.0),
        ),
    )
    rows = rows_of([documents(64)] * 100, 64)
    batch = jax.device_get(make(block, "decoder")(rows, jax.random.key(0)))

    prefixes = batch.inputs["prefix_BL"].sum(axis=1)
    assert 30 < np.sum(prefixes == 0) < 70
    assert prefixes.max() > 50


def hide(rows, seed):
    objective = functools.partial(prefix, suffix_share=0.5)
    return jax.device_get(jax.jit(objective)(rows, jax.random.key(seed)))


def test_a_prefix_as_a_table():
    tokens = np.array([1, 5, 6, 7, 8, 2])
    rows = rows_of([[Piece(tokens, -1)], [Piece(tokens, -1)], [Piece(tokens, 9)]], 8)
    batch = hide(rows, seed=1)
    plain = jax.device_get(causal(rows, None))

    for b in range(3):
        n = int(batch.inputs["prefix_BL"][b].sum())
        weights = plain.weights_BL[b].copy()
        weights[: max(n - 1, 0)] = 0  # The last token of the prefix predicts the first behind it.
        np.testing.assert_array_equal(batch.inputs["prefix_BL"][b], np.arange(8) < n)
        np.testing.assert_array_equal(batch.weights_BL[b], weights)
        np.testing.assert_array_equal(batch.targets_BL[b], plain.targets_BL[b])


def test_prefixes_take_every_share_of_each_document():
    rows = rows_of([documents(30, 34)] * 500, 64)
    batch = hide(rows, seed=0)

    first = batch.inputs["prefix_BL"][:, :30].sum(axis=1)
    second = batch.inputs["prefix_BL"][:, 30:].sum(axis=1)
    assert abs(np.mean(first) - 15) < 1.5 and abs(np.mean(second) - 17) < 1.5
    assert set(first) >= set(range(30))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15


MASKED = dict(kind="masked", rate=0.15, mask_share=0.8, random_share=0.1, whole_words=False)
BAD = {
    "masked for a decoder": (MASKED, "decoder", "is nothing that trains a decoder"),
    "causal for an encoder": (dict(kind="causal"), "encoder", "choose masked"),
    "a rate above one": (MASKED | dict(rate=1.5), "encoder", "objective.rate=1.5"),
    "shares above one": (MASKED | dict(random_share=0.5), "encoder", "random_share=0.5"),
    "a setting that is missing": (dict(kind="prefix"), "decoder", "suffix_share is missing"),
    "a setting too many": (SPANS | dict(rate=0.1), "encoder_decoder", "rate is no setting of"),
    "a weight of nothing": (
        dict(kind="mixture", parts=dict(a=SPANS | dict(weight=0.0))),
        "encoder_decoder",
        "objective.parts.a.weight=0.0",
    ),
    "a mixture of mixtures": (
        dict(kind="mixture", parts=dict(a=UL2 | dict(weight=1.0))),
        "encoder_decoder",
        "objective.parts.a.kind='mixture'",
    ),
    "no mean span": (
        SPANS | dict(mean_span_length=float("nan")),
        "encoder_decoder",
        "mean_span_length=nan",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_settings_that_cannot_work_are_named(name):
    block, architecture, message = BAD[name]

    with pytest.raises(UserError, match=message):
        check(block, architecture)


def test_a_tokenizer_without_the_tokens_that_are_needed_is_named():
    with pytest.raises(UserError, match="needs a mask token"):
        make(MASKED, "encoder")
    with pytest.raises(UserError, match=r"data\.seq_len=64 need as many sentinels"):
        make_objective(SPANS, architecture="encoder_decoder", vocabulary=vocabulary(2), seq_len=64)
