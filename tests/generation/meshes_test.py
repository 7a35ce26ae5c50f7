"""Parameters that are cut over devices write and find likely what whole ones do."""

import dataclasses

import jax
import numpy as np
import pytest

from lm.generation import beam, sampling, scoring
from lm.models.families import FAMILIES, param_shapes
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import place_params
from tests import tiny
from tests.models.all_families_test import CONFIGS

MODELS = {
    "gpt2": dataclasses.replace(tiny.CONFIG, vocab_size=24),
    "llama": dataclasses.replace(CONFIGS["llama"], vocab_size=24, num_kv_heads=2),
    "t5": dataclasses.replace(CONFIGS["t5"], vocab_size=24, dropout=0.0),
}
PROMPTS = [[3, 1, 4], [7], [5, 9, 2, 11, 13], [6, 2]]
WRITING = dict(vocab_size=23, max_new_tokens=6, stop_ids=[2])


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
@pytest.mark.parametrize("name", MODELS)
def test_texts_are_the_same_on_any_mesh(name, axis, random_like):
    model = FAMILIES[name].module(MODELS[name])
    params = random_like(param_shapes(model), scale=0.5)
    sizes = dict(data=1, fsdp=1, tensor=1, sequence=1) | {axis: 2}
    cut = place_params(params, make_mesh(strategy="jit", **sizes))

    def results(params):
        written = sampling.generate(
            model,
            params,
            PROMPTS,
            jax.random.key(0),
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            **WRITING,
        )
        pairs = [(prompt, [1, 8, 5]) for prompt in PROMPTS]
        return written, scoring.score(model, params, pairs, vocab_size=23)

    written, scores = results(cut)

    is_whole = cut["token_embedding"].sharding.is_fully_replicated
    assert is_whole == (axis == "data")
    expected, expected_scores = results(params)
    assert written == expected
    for score, other in zip(scores, expected_scores, strict=True):
        assert score.is_greedy == other.is_greedy
        np.testing.assert_allclose(score.of_tokens, other.of_tokens, rtol=1e-5)
        np.testing.assert_allclose(score.log_likelihood, sum(other.of_tokens), rtol=1e-5)


def test_beams_are_the_same_on_a_mesh(random_like):
    model = FAMILIES["t5"].module(MODELS["t5"])
    params = random_like(param_shapes(model), scale=0.5)
    mesh = make_mesh(strategy="jit", data=1, fsdp=1, tensor=2, sequence=1)
    settings = WRITING | dict(num_beams=2, length_penalty=1.0, early_stopping=False)

    found = beam.search(model, place_params(params, mesh), PROMPTS, **settings)

    expected = beam.search(model, params, PROMPTS, **settings)
    assert [[h.tokens for h in beams] for beams in found] == [
        [h.tokens for h in beams] for beams in expected
    ]
