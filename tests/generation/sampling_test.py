import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from lm.errors import UserError
from lm.generation import beam, sampling
from lm.models.gpt2 import GPT2
from lm.models.kv_cache import unstack_for_decoding
from tests import tiny

MODEL = GPT2(tiny.CONFIG)


@pytest.fixture(scope="module")
def params(random_like):
    return random_like(tiny.shapes(), scale=0.5)


def generate(params, prompts, key=0, **changes):
    settings = dict(
        vocab_size=23, max_new_tokens=6, temperature=0.0, top_k=0, top_p=1.0, stop_ids=[]
    )
    return sampling.generate(MODEL, params, prompts, jax.random.key(key), **settings | changes)


def test_greedy_takes_the_likeliest_token_each_time(params):
    prompt = [3, 1, 4]
    expected = list(prompt)
    apply = jax.jit(MODEL.apply)
    for _ in range(6):
        row_BL = np.zeros((1, 16), np.int32)
        row_BL[0, : len(expected)] = expected
        logits_BLV = apply({"params": params}, row_BL, np.arange(16)[None], None).logits()
        expected.append(int(jnp.argmax(logits_BLV[0, len(expected) - 1])))

    assert generate(params, [prompt]) == [expected[3:]]


def test_prompts_of_unequal_lengths_do_not_disturb_each_other(params):
    prompts = [[1], [5, 6, 7, 8], [2, 9]]
    settings = dict(temperature=1.0, top_p=0.9)

    together = generate(params, prompts, **settings)

    assert together[0] == generate(params, prompts[:1], **settings)[0]
    edited = generate(params, [prompts[0], [4, 4], prompts[2]], **settings)
    assert (edited[0], edited[2]) == (together[0], together[2])


def test_a_sample_is_that_of_the_prompt_alone_wherever_it_stands(params):
    prompts = [[1], [5, 6, 7, 8], [2, 9], [1]]
    settings = dict(temperature=2.0)

    together = generate(params, prompts, **settings)

    assert together[:3] == [generate(params, [prompt] * 4, **settings)[0] for prompt in prompts[:3]]
    assert generate(params, prompts[::-1], **settings)[1:3] == together[2:0:-1]
    assert together[0] != together[3]  # The same prompt again is another sample.


def test_a_key_gives_the_same_sample_and_another_key_another(params):
    first, again, other = (generate(params, [[1]] * 4, k, temperature=2.0) for k in (0, 0, 1))

    assert first == again != other
    assert len({tuple(sample) for sample in first}) > 1


def test_from_prompt_to_prompt_nothing_is_compiled_again(params):
    generate(params, [[1]] * 4)
    num_compiled = sampling._begin._cache_size()

    generate(params, [[2, 5] * 6, [3], [4]], temperature=0.5, top_k=3, max_new_tokens=2)
    generate(params, [[7] * 9] * 4, key=5, top_p=0.5, stop_ids=[3])

    assert sampling._begin._cache_size() == num_compiled
    generate(params, [[1]] * 50)  # Other batches, of 32, are another program.
    assert sampling._begin._cache_size() == num_compiled + 1


def test_parameters_can_be_made_ready_once_for_many_calls(params):
    ready = unstack_for_decoding(params, "float32")
    layer = ready["layers"][0]["mlp"]

    assert unstack_for_decoding(ready, "float32")["layers"][0]["mlp"] is layer
    assert generate(ready, [[3, 1, 4]]) == generate(params, [[3, 1, 4]])


@pytest.mark.parametrize("temperature", [0.0, 9.0])
def test_an_id_that_the_tokenizer_does_not_know_is_never_drawn(params, temperature):
    samples = generate(params, [[1]] * 8, temperature=temperature, vocab_size=3)

    assert {token for sample in samples for token in sample} <= {0, 1, 2}


def test_a_stop_token_ends_a_sample_and_is_not_part_of_it(params):
    (whole,) = generate(params, [[3, 1, 4]])

    (stopped,) = generate(params, [[3, 1, 4]], stop_ids=[whole[2]])

    assert stopped == whole[: whole.index(whole[2])]


def test_what_says_enough_is_not_gone_on_with(params):
    prompts, settings = [[3, 1, 4], [2, 9]], dict(max_new_tokens=12, temperature=1.0)
    whole = generate(params, prompts, **settings)
    asked = []

    def is_ended(index, tokens):
        asked.append((index, len(tokens)))
        return whole[index][:2] == tokens[:2] and len(tokens) > 2

    settings["look_every"] = 4
    found = generate(params, prompts, is_ended=is_ended, **settings)
    unmoved = generate(params, prompts, is_ended=lambda index, tokens: index == 1, **settings)

    assert found == [tokens[:4] for tokens in whole]
    assert sorted(asked) == [(0, 4), (1, 4)]
    assert unmoved == whole  # One of them went on.


def test_top_k_of_one_is_greedy(params):
    assert generate(params, [[2], [7]], temperature=1.0, top_k=1) == generate(params, [[2], [7]])


PROBS = [0.05, 0.5, 0.15, 0.3]


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0, 1, 2, 3]),
        (2, 1.0, [1, 3]),
        (0, 0.4, [1]),
        (0, 0.6, [1, 3]),
        (0, 0.9, [1, 2, 3]),
        (2, 0.6, [1]),  # Of the two that are left, the first has 0.5 / 0.8 of the probability.
        (0, 1e-9, [1]),
    ],
)
def test_what_top_k_and_top_p_keep(top_k, top_p, kept):
    logits_BV = jnp.log(jnp.asarray([PROBS]))

    filtered_BV = sampling.filter_logits(logits_BV, jnp.array([top_k]), jnp.array([top_p]))

    assert np.flatnonzero(np.isfinite(filtered_BV[0])).tolist() == kept
    np.testing.assert_array_equal(filtered_BV[0, kept], logits_BV[0, kept])


NOTHING = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, repetition_penalty=1.0)


def settings_of(*rows):
    """Each row's own."""
    names = [field.name for field in dataclasses.fields(sampling.DrawSettings)]
    full = [NOTHING | row for row in rows]
    return sampling.DrawSettings(
        **{name: jnp.asarray([row[name.removesuffix("_B")] for row in full]) for name in names}
    )


def test_the_filters_of_each_row_are_those_of_transformers():
    rows = [dict(top_k=3), dict(top_p=0.7), dict(top_k=4, top_p=0.5), {}, dict(top_p=1e-46)]
    logits_BV = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    logits_BV[:, 5] = logits_BV[:, 2]  # Of equals, those with the lowest ids are kept.
    settings = settings_of(*rows)

    ours_BV = sampling.filter_logits(jnp.asarray(logits_BV), settings.top_k_B, settings.top_p_B)

    for row, logits_V, ours_V in zip(rows, logits_BV, ours_BV, strict=True):
        theirs = torch.tensor(logits_V)[None]
        # Theirs keeps all equals, or those with the highest ids; these are a little less likely.
        theirs[0, 5] -= 1e-6
        if "top_k" in row:
            theirs = transformers.TopKLogitsWarper(row["top_k"])(None, theirs)
        if "top_p" in row:
            theirs = transformers.TopPLogitsWarper(row["top_p"])(None, theirs)
        np.testing.assert_array_equal(np.isfinite(ours_V), np.isfinite(theirs[0].numpy()))


def drawn(logits_V, num, seen=(), **settings):
    """So many tokens, of keys of their own."""
    logits_BV = jnp.broadcast_to(logits_V, (num, len(logits_V)))
    keys_B, turns_B = jax.random.split(jax.random.key(0), num), jnp.zeros(num, int)
    seen_BV = jnp.isin(jnp.arange(len(logits_V)), jnp.array(seen, int))
    seen_BV = jnp.broadcast_to(seen_BV, logits_BV.shape)
    settings = sampling.DrawSettings.of(num, **NOTHING | settings)
    return np.asarray(sampling.draw(logits_BV, keys_B, turns_B, seen_BV, settings))


def test_tokens_are_drawn_as_often_as_their_probability_says():
    counts = np.bincount(drawn(jnp.log(jnp.asarray(PROBS)), 4000))

    np.testing.assert_allclose(counts / 4000, PROBS, atol=0.03)


def test_what_is_drawn_is_that_of_jax():
    logits_V = jnp.log(jnp.asarray(PROBS))
    keys_B = jax.random.split(jax.random.key(0), 100)
    keys_B = jax.vmap(jax.random.fold_in)(keys_B, jnp.zeros(100, int))

    theirs_B = jax.vmap(jax.random.categorical, (0, None))(keys_B, logits_V)

    np.testing.assert_array_equal(drawn(logits_V, 100), theirs_B)


@pytest.mark.parametrize(("min_p", "kept"), [(0.0, [0, 1, 2, 3]), (0.2, [1, 2, 3]), (0.5, [1, 3])])
def test_min_p_keeps_a_share_of_the_likeliest(min_p, kept):
    logits_V = jnp.log(jnp.asarray(PROBS))
    theirs = transformers.MinPLogitsWarper(min_p)(None, torch.tensor(np.asarray(logits_V))[None])

    tokens = set(drawn(logits_V, 300, min_p=min_p).tolist())

    assert tokens == set(kept) == set(np.flatnonzero(np.isfinite(theirs[0].numpy())))


def test_the_penalty_is_that_of_transformers():
    logits_V = jnp.asarray([1.0, 1.2, -0.5, -0.6])
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1.5)

    for seen in ([], [1], [0, 1], [2], [0, 1, 2, 3]):
        theirs = penalty(torch.tensor([seen], dtype=int), torch.tensor(np.asarray(logits_V))[None])
        for logits, other in ((logits_V, theirs[0]), (logits_V - 3, None)):
            if other is None:
                given = torch.tensor(np.asarray(logits))[None]
                other = penalty(torch.tensor([seen], dtype=int), given)[0]
            (token,) = drawn(logits, 1, seen, temperature=0.0, repetition_penalty=1.5)
            assert token == int(other.argmax())


def test_penalty_temperature_and_filters_together_are_those_of_transformers():
    warpers = {
        "repetition_penalty": transformers.RepetitionPenaltyLogitsProcessor,
        "temperature": transformers.TemperatureLogitsWarper,
        "top_k": transformers.TopKLogitsWarper,
        "top_p": transformers.TopPLogitsWarper,
        "min_p": transformers.MinPLogitsWarper,
    }
    rows = [
        dict(min_p=0.2),
        dict(repetition_penalty=1.7, temperature=0.6),
        dict(repetition_penalty=0.5, min_p=0.4),
        dict(repetition_penalty=1.3, temperature=1.4, top_k=7, top_p=0.9, min_p=0.3),
    ]
    logits_BV = np.random.default_rng(0).standard_normal((4, 12)).astype(np.float32)
    seen_BV = np.random.default_rng(1).random((4, 12)) < 0.5
    settings = settings_of(*rows)

    ours_BV = sampling.penalize(jnp.asarray(logits_BV), seen_BV, settings.repetition_penalty_B)
    ours_BV = sampling.scale_and_filter(ours_BV, settings)

    for row, logits_V, seen_V, ours_V in zip(rows, logits_BV, seen_BV, ours_BV, strict=True):
        chain = [warper(row[name]) for name, warper in warpers.items() if name in row]
        ids_1L = torch.tensor(np.flatnonzero(seen_V))[None]
        theirs = transformers.LogitsProcessorList(chain)(ids_1L, torch.tensor(logits_V)[None])
        np.testing.assert_allclose(ours_V, theirs[0].numpy(), rtol=1e-6)
        assert "min_p" not in row or not np.isfinite(ours_V).all()


def test_what_was_read_and_written_is_not_repeated(params):
    (plain,) = generate(params, [[3, 1, 4]], max_new_tokens=12)

    (penalised,) = generate(params, [[3, 1, 4]], max_new_tokens=12, repetition_penalty=1e6)

    assert len({3, 1, 4, *plain}) < 15 == len({3, 1, 4, *penalised})


def test_each_row_is_drawn_as_it_is_alone():
    rows = [
        {},
        dict(temperature=0.0),
        dict(top_k=2, temperature=3.0),
        dict(top_p=0.5),
        dict(min_p=0.3),
        dict(repetition_penalty=2.0),
        dict(temperature=0.0, repetition_penalty=2.0),
    ]
    B, V = len(rows), 9
    logits_BV = jnp.asarray(np.random.default_rng(0).standard_normal((B, V)), jnp.float32)
    keys_B, turns_B = jax.random.split(jax.random.key(1), B), jnp.arange(B)
    seen_BV = jnp.arange(V)[None] % 2 == jnp.arange(B)[:, None] % 2
    draw = jax.jit(sampling.draw)

    together = draw(logits_BV, keys_B, turns_B, seen_BV, settings_of(*rows))

    for b, row in enumerate(rows):
        one = slice(b, b + 1)
        alone = draw(logits_BV[one], keys_B[one], turns_B[one], seen_BV[one], settings_of(row))
        assert together[b] == alone[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(max_new_tokens=0), "max_new_tokens=0"),
        (dict(max_new_tokens=14), "16 positions"),
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(temperature=1e39), "temperature=1e"),
        (dict(top_p=0.0), "top_p=0.0"),
        (dict(top_k=-1), "top_k=-1"),
        (dict(top_k=1 << 31), "top_k=2147483648"),
        (dict(min_p=1.5), "min_p=1.5"),
        (dict(min_p=float("nan")), "min_p=nan"),
        (dict(repetition_penalty=0.0), "repetition_penalty=0.0"),
        (dict(repetition_penalty=float("inf")), "repetition_penalty=inf"),
    ],
)
def test_numbers_out_of_range_are_named(params, changes, message):
    with pytest.raises(UserError, match=message):
        generate(params, [[1, 2, 3]], **changes)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("penalty", [1e39, -1e300, np.inf, np.nan])
def test_a_length_penalty_that_float32_does_not_hold_is_named(penalty):
    with pytest.raises(UserError, match=r"length_penalty=.* that float32 holds"):
        beam.check(2, penalty)
    beam.check(2, 3e38)
