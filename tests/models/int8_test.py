import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.generation import decoding, sampling
from lm.models import int8
from lm.models.families import init_params
from lm.models.gpt2 import GPT2
from lm.models.kv_cache import unstack_for_decoding, unstack_layers
from tests import tiny
from tests.models.all_families_test import make

# Wide enough that rounding to 8 bits averages out.
WIDE = dict(num_heads=4, head_dim=16, model_dim=64, mlp_dim=128)
MODELS = {
    "gpt2": GPT2(dataclasses.replace(tiny.CONFIG, **WIDE)),
    "llama": make("llama", **WIDE),
    "t5": make("t5", **WIDE, tied_output=True),
}


def test_a_product_is_that_of_what_was_rounded():
    rng = np.random.default_rng(0)
    w_FD, x_ND = rng.standard_normal((5, 9)), rng.standard_normal((3, 9)) * [[1], [1e-3], [50]]
    w_FD[2] = 0

    matrix, rounded = int8.quantize(w_FD), int8.quantize(x_ND)
    y_NF = matrix.product(jnp.asarray(x_ND, jnp.float32))

    restored = lambda m: np.float64(m.values_FD) * np.float64(m.scale_F)[:, None]
    np.testing.assert_allclose(y_NF, restored(rounded) @ restored(matrix).T, rtol=1e-5)
    steps = np.abs(w_FD).max(axis=1, keepdims=True) / 127
    assert (np.abs(restored(matrix) - w_FD) <= 0.501 * steps).all()
    np.testing.assert_allclose(
        matrix.rows(jnp.array([[4, 2]]), "float32")[0, 0], w_FD[4], atol=0.02
    )


def test_a_row_has_the_same_bits_in_any_company():
    x_ND = jax.random.normal(jax.random.key(0), (16, 64))
    matrix = int8.quantize(jax.random.normal(jax.random.key(1), (32, 64)))

    together = jax.jit(int8.Int8Matrix.product)(matrix, x_ND)

    for rows in (slice(0, 1), slice(3, 5), slice(8, 16)):
        alone = jax.jit(int8.Int8Matrix.product)(matrix, x_ND[rows])
        np.testing.assert_array_equal(alone, together[rows])


@pytest.mark.parametrize("name", MODELS)
def test_decoding_says_nearly_what_float32_says_in_a_third_of_the_bytes(name):
    model = MODELS[name]
    params = unstack_layers(init_params(model, jax.random.key(2)), "float32")
    # As wide as trained tables are, so that logits tell tokens apart.
    grown = lambda path, x: 5 * x if "embedding" in str(path[-1]) else x
    params = jax.tree_util.tree_map_with_path(grown, params)
    prompts = np.array([[1, 5, 9, 3], [7, 2, 0, 0]]), np.array([4, 2])

    @jax.jit
    def logits(params):
        first_BV, positions_B, caches = decoding.start(
            model, params, *prompts, num_new=2, start_id=0
        )
        second_BV, _ = decoding.step(model, params, jnp.array([3, 4]), positions_B, caches)
        return jnp.stack([first_BV, second_BV])

    rounded = int8.quantize_for_decoding(params)

    expected, found = logits(params), logits(rounded)
    assert 0 < np.abs(found - expected).max() < 0.08 * expected.std()
    decoder = lambda tree: tree.get("decoder", tree)["layers"]
    num_bytes = lambda tree: sum(x.nbytes for x in jax.tree.leaves(decoder(tree)))
    assert num_bytes(rounded) < num_bytes(params) / 3


def test_generate_takes_rounded_parameters_as_they_are():
    model = MODELS["gpt2"]
    params = unstack_for_decoding(init_params(model, jax.random.key(2)), "float32")
    rounded = int8.quantize_for_decoding(params)
    settings = dict(
        vocab_size=23, max_new_tokens=6, temperature=1.0, top_k=0, top_p=1.0, stop_ids=[]
    )
    write = lambda prompts: sampling.generate(
        model, rounded, prompts, jax.random.key(0), **settings
    )

    assert unstack_for_decoding(rounded, "float32") is rounded
    assert write([[1], [5, 6, 7]])[0] == write([[1]])[0]
