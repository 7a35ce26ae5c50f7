"""Matrices in blocks multiply as whole ones do, and each row as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.generation import decoding
from lm.models import blocked_matrix, int8
from lm.models.blocked_matrix import BlockedMatrix
from lm.models.families import init_params
from lm.models.kv_cache import unstack_for_decoding, unstack_layers
from tests.models.int8_test import MODELS

product = jax.jit(BlockedMatrix.product)


@pytest.fixture(scope="module")
def matrix():
    # One block is full, and one is not.
    return blocked_matrix.block(jax.random.normal(jax.random.key(1), (70, 96)))


@pytest.mark.parametrize("num_rows", [1, 2, 16, 128, 129])
def test_products_are_those_of_the_whole_matrix(matrix, num_rows):
    x_ND = jax.random.normal(jax.random.key(0), (num_rows, 96))

    y_NF = product(matrix, x_ND)

    assert y_NF.shape == (num_rows, 70)
    np.testing.assert_allclose(y_NF, np.asarray(x_ND) @ np.asarray(matrix.whole_FD).T, atol=1e-4)


def test_a_row_has_the_same_bits_in_any_company(matrix):
    x_ND = jax.random.normal(jax.random.key(0), (64, 96))

    together = product(matrix, x_ND)

    for rows in (slice(0, 1), slice(3, 5), slice(8, 12), slice(7, 39)):
        np.testing.assert_array_equal(product(matrix, x_ND[rows]), together[rows])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_decodes_by_blocks_as_it_does_by_whole_matrices(name):
    model = MODELS[name]
    params = init_params(model, jax.random.key(2))
    prompts = np.array([[1, 5, 9, 3] * 8, [7, 2] * 16]), np.array([30, 2])

    @jax.jit
    def logits(params):
        first_BV, positions_B, caches = decoding.start(
            model, params, *prompts, num_new=2, start_id=0
        )
        second_BV, _ = decoding.step(model, params, jnp.array([3, 4]), positions_B, caches)
        return jnp.stack([first_BV, second_BV])

    whole, blocks = unstack_layers(params, "float32"), unstack_for_decoding(params, "float32")

    count = lambda tree: str(jax.tree.structure(tree)).count(BlockedMatrix.__name__)
    assert count(whole) == 0 and count(blocks) > 4
    np.testing.assert_allclose(logits(blocks), logits(whole), atol=1e-5)
    # Other dtypes and 8-bit integers have products of their own.
    assert count(unstack_for_decoding(params, "bfloat16")) == 0
    assert count(int8.quantize_for_decoding(blocks)) == 0
