import dataclasses

import jax
import numpy as np
import pytest

from lm.errors import UserError
from lm.generation import sampling, speculative
from lm.models.families import init_params, param_shapes
from lm.models.gpt2 import GPT2
from tests import tiny
from tests.models.all_families_test import make

MODELS = {
    "gpt2": GPT2(dataclasses.replace(tiny.CONFIG, max_len=64)),
    "llama": make("llama", max_len=64),  # With a window of 5.
}
PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]
HOW = {
    "greedy": dict(temperature=0.0),
    "drawn": dict(temperature=1.0, top_k=0, top_p=1.0),
    "filtered": dict(temperature=0.7, top_k=9, top_p=0.8, min_p=0.01, repetition_penalty=1.3),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request, random_like):
    model = MODELS[request.param]
    return model, random_like(param_shapes(model), scale=0.5)


def guesses(right, seed):
    """Guesses that hold for a while, as `right` goes on, and then do not."""
    rng = np.random.default_rng(seed)

    def guess(text):
        so_far = len(text) - len(PROMPT)
        num = int(rng.integers(0, 9))
        wrong = rng.integers(0, 23, 9 - num).tolist()
        return right[so_far:][:num] + wrong

    return guess


@pytest.mark.parametrize("how", HOW)
def test_texts_are_those_without_a_draft_whatever_is_guessed(model, how):
    settings = dict(vocab_size=23, max_new_tokens=30, top_k=0, top_p=1.0, stop_ids=[7]) | HOW[how]
    for seed in range(8):
        key = jax.random.key(seed)
        (plain,) = sampling.sample(*model, [PROMPT], key, **settings)

        for guess in (guesses(plain.tokens, seed), speculative.Lookup(), lambda text: [0]):
            found, _ = speculative.sample(*model, PROMPT, key, guess=guess, **settings)
            assert found == plain


def test_a_draft_that_holds_saves_passes_and_one_that_never_does_costs_none(model):
    settings = dict(
        vocab_size=23, max_new_tokens=30, temperature=0.0, top_k=0, top_p=1.0, stop_ids=[]
    )
    key = jax.random.key(0)
    (plain,) = sampling.sample(*model, [PROMPT], key, **settings)
    knowing = lambda text: plain.tokens[len(text) - len(PROMPT) :]

    _, few = speculative.sample(*model, PROMPT, key, guess=knowing, **settings)
    _, many = speculative.sample(*model, PROMPT, key, guess=lambda text: (), **settings)

    assert few == 1 + -(-29 // (speculative.DRAFT_LEN + 1))  # The prompt's, and eight tokens each.
    assert many == 30


def test_what_stood_behind_the_same_tokens_last_is_guessed():
    guess = speculative.Lookup()

    assert list(guess([1, 2, 3])) == []
    assert list(guess([1, 2, 3, 8, 1, 2])) == [3, 8, 1, 2]
    # The longest of several that are the same, and of those the last.
    assert list(guess([1, 2, 3, 8, 1, 2, 9, 3, 1, 2])) == [9, 3, 1, 2]
    assert list(guess([1, 2, 3, 8, 1, 2, 9, 3, 1, 2, 9])) == [3, 1, 2, 9]


def test_models_with_an_encoder_are_refused():
    t5 = make("t5")
    settings = dict(vocab_size=23, max_new_tokens=3, temperature=0, top_k=0, top_p=1, stop_ids=[])
    with pytest.raises(UserError, match="decoders alone"):
        params = init_params(t5, jax.random.key(0))
        speculative.sample(t5, params, [1], jax.random.key(0), guess=lambda text: (), **settings)
