"""Rows of one batch, each as far as it likes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.generation import decoding
from lm.models.families import FAMILIES, param_shapes
from lm.models.kv_cache import unstack_for_decoding
from tests import tiny
from tests.models.all_families_test import CONFIGS

MODELS = {
    "gpt2": dataclasses.replace(tiny.CONFIG, max_len=64),
    "llama": dataclasses.replace(CONFIGS["llama"], max_len=64),
    "t5": dataclasses.replace(CONFIGS["t5"], dropout=0.0),
}


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_a_row_ignore_how_far_the_others_are(name, random_like):
    model = FAMILIES[name].module(MODELS[name])
    params = random_like(param_shapes(model), scale=0.5)
    params = unstack_for_decoding(params, "float32")
    tokens_BL = np.random.default_rng(0).integers(3, 23, (2, 32)).astype(np.int32)
    start = jax.jit(decoding.start, static_argnames=("model", "num_new", "start_id"))
    step = jax.jit(decoding.step, static_argnames="model")
    _, positions_B, caches = start(
        model, params, tokens_BL, np.array([9, 20]), num_new=32, start_id=0
    )

    def written(caches, counts):
        """Logits behind a number of new tokens in each row, and the caches."""
        for i in range(max(counts)):
            # A row that has enough is read again at its last place, where it changes nothing.
            at_B = positions_B + jnp.minimum(i, jnp.asarray(counts) - 1)
            new_B = (3 + at_B % 7).astype(jnp.int32)
            logits_BV, caches = step(model, params, new_B, at_B, caches)
        return np.asarray(logits_BV)

    equal = [written(caches, (num, num)) for num in (2, 12)]
    apart = written(caches, (2, 12))

    np.testing.assert_array_equal(apart[0], equal[0][0])
    np.testing.assert_array_equal(apart[1], equal[1][1])
    assert not np.allclose(equal[0], equal[1])
