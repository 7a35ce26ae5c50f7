import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from lm.errors import UserError
from lm.generation import sampling, speculative
from lm.generation.draft_model import DraftModel
from lm.models.families import param_shapes
from lm.models.gpt2 import GPT2
from tests import tiny
from tests.generation.sampling_test import NOTHING
from tests.models.all_families_test import make

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
LARGE = GPT2(dataclasses.replace(tiny.CONFIG, max_len=64))
SMALL = make("llama", max_len=64)  # With a window of 5.
HOW = {
    "greedy": NOTHING | dict(temperature=0.0),
    "drawn": NOTHING,
    "filtered": dict(temperature=0.7, top_k=9, top_p=0.8, min_p=0.01, repetition_penalty=1.3),
}


@pytest.fixture(scope="module")
def large(random_like):
    return LARGE, random_like(param_shapes(LARGE), scale=0.5)


@pytest.fixture(scope="module")
def small(random_like):
    return SMALL, random_like(param_shapes(SMALL), scale=0.5)


def drafted(large, small, key, change=lambda draft: draft, **settings):
    """What is written by drafts, and the passes that it took."""
    draws = {name: value for name, value in settings.items() if name != "stop_ids"}
    draft = DraftModel(*small, PROMPT, key, copy=0, **draws)
    guess = lambda text: change(draft(text))
    return speculative.sample(*large, PROMPT, key, guess=guess, **settings)


@pytest.mark.parametrize("how", HOW)
def test_texts_are_those_without_a_draft_whatever_drafts(large, small, how):
    settings = dict(vocab_size=23, max_new_tokens=30, stop_ids=[7]) | HOW[how]
    for seed in range(4):
        key = jax.random.key(seed)
        (plain,) = sampling.sample(*large, [PROMPT], key, **settings)

        found, _ = drafted(large, small, key, **settings)

        assert found == plain


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["large", "small"])
def test_a_model_that_drafts_for_itself_is_always_right(request, name, how):
    model = request.getfixturevalue(name)
    settings = dict(vocab_size=23, max_new_tokens=30, stop_ids=[]) | HOW[how]
    asked = []

    def spoiled(at, times):
        asked.clear()

        def change(draft):
            asked.append(0)
            wrong = (draft[at] + 1) % 23
            return [*draft[:at], wrong, *draft[at + 1 :]] if len(asked) <= times else draft

        return change

    for seed in range(3):
        key = jax.random.key(seed)
        _, num_whole = drafted(model, model, key, **settings)
        _, num_half = drafted(model, model, key, spoiled(3, 100), **settings)
        _, num_late = drafted(model, model, key, spoiled(0, 2), **settings)

        assert num_whole == 1 + 4  # The prompt's, and eight tokens each.
        assert num_half == 1 + 8  # Three of a draft, and the right one.
        assert num_late == 1 + 2 + 8 + 3  # Two drafts in vain, eight passes without, then as above.


def test_what_is_drawn_has_the_distribution_of_the_model(large, small):
    V, N = 2, 300
    settings = dict(vocab_size=V, max_new_tokens=3, stop_ids=[]) | HOW["drawn"]
    counts, num_kept = np.zeros((V, V, V)), 0
    for seed in range(N):
        sample, num_passes = drafted(large, small, jax.random.key(seed), **settings)
        counts[tuple(sample.tokens)] += 1
        num_kept += 3 - num_passes
    assert 0.1 < num_kept / N < 0.9  # Some drafts hold, and some do not.

    model, params = large
    continued = [(*PROMPT, a, b) for a in range(V) for b in range(V)]
    logits = np.asarray(whole_logits(model, params, np.array(continued)), float)[..., :V]
    probs = scipy.special.softmax(logits[:, len(PROMPT) - 1 :], axis=-1).reshape(V, V, 3, V)
    expected = np.einsum("a,ab,abc->abc", probs[0, 0, 0], probs[:, 0, 1], probs[:, :, 2])
    assert scipy.stats.chisquare(counts.ravel(), N * expected.ravel()).pvalue > 0.01


def whole_logits(model, params, tokens_BL):
    """All logits of texts that are read whole, without a cache."""
    at_BL = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    inputs = dict(tokens_BL=tokens_BL, segment_ids_BL=jnp.ones_like(tokens_BL), positions_BL=at_BL)
    return model.apply({"params": params}, **inputs).logits()


def test_tokens_of_two_models_agree_as_often_as_is_promised():
    rng = np.random.default_rng(0)
    keys_B, turns_B = jax.random.split(jax.random.key(0), 4000), jnp.zeros(4000, int)
    how = sampling.DrawSettings.of(4000, **NOTHING)
    for scale in (0.3, 1.0, 2.0):
        logits_2V = rng.standard_normal((2, 9)).astype(np.float32) * scale
        draws = [
            sampling.draw(jnp.tile(x, (4000, 1)), keys_B, turns_B, jnp.zeros((4000, 9), bool), how)
            for x in logits_2V
        ]
        p, q = np.asarray(jax.nn.softmax(logits_2V))
        distance = np.abs(p - q).sum() / 2

        assert np.mean(draws[0] == draws[1]) > (1 - distance) / (1 + distance) - 0.03


def test_what_cannot_draft_is_named():
    settings = dict(copy=0, vocab_size=23, max_new_tokens=30) | HOW["greedy"]
    t5, short = make("t5"), make("llama", max_len=32)
    for model, message in ((t5, "decoders alone"), (short, "draft: a prompt of 8 tokens")):
        with pytest.raises(UserError, match=message):
            DraftModel(model, param_shapes(model), PROMPT, jax.random.key(0), **settings)
