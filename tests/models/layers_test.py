import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from lm.costs.memory import saved_activation_bytes
from lm.models.layers import ACTIVATIONS, GatedMlp, LayerNorm, RmsNorm, embed, embed_few
from lm.models.parameters import kernel_dims

F32 = jnp.dtype("float32")
NORMS = {"layer": LayerNorm(1e-5, F32), "rms": RmsNorm(1e-5, F32)}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("path", "ndim", "expected"),
    [
        ("layers/attention/query/kernel", 4, (1, 1, 2)),  # N x D x H x K
        ("encoder/layers/attention/out/kernel", 4, (1, 2, 1)),  # N x H x K x D
        ("layers/mlp/in/kernel", 3, (1, 1, 1)),  # N x D x F
        ("layers/mlp/out/kernel", 3, (1, 1, 1)),  # N x F x D
        ("decoder/layers/cross_attention/out/kernel", 4, (1, 2, 1)),
        ("pooler/kernel", 2, (0, 1, 1)),
        ("head/out/kernel", 2, (0, 1, 1)),
    ],
)
def test_the_dimensions_of_a_kernel(path, ndim, expected):
    assert kernel_dims(tuple(path.split("/")), ndim) == expected


def plain_norm(name, params, x_BLD):
    """The definitions, for autodiff."""
    if name == "layer":
        x_BLD = x_BLD - jnp.mean(x_BLD, axis=-1, keepdims=True)
    x_BLD = x_BLD / jnp.sqrt(jnp.mean(x_BLD**2, axis=-1, keepdims=True) + 1e-5)
    y_BLD = x_BLD * params["scale"][None, None]
    return y_BLD + params["bias"][None, None] if name == "layer" else y_BLD


@pytest.mark.parametrize("name", NORMS)
def test_norms_and_their_gradients_are_those_of_the_definition(name):
    x_BLD = 2 * random(2, 3, 8) + 1
    params = {"scale": random(8, seed=1), "bias": random(8, seed=2)}
    params = params if name == "layer" else {"scale": params["scale"]}
    ours = lambda params, x_BLD: NORMS[name].apply({"params": params}, x_BLD)

    def value_and_gradients(norm):
        y_BLD, backward = jax.vjp(norm, params, x_BLD)
        return y_BLD, backward(jnp.asarray(random(2, 3, 8, seed=3)))

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
        value_and_gradients(ours),
        value_and_gradients(functools.partial(plain_norm, name)),
    )
    check_grads(ours, (params, x_BLD), order=1, modes=["rev"], rtol=0.02)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gradients_of_activations_are_those_of_autodiff(name):
    plain = {"gelu": jax.nn.gelu, "gelu_new": jax.nn.gelu, "relu": jax.nn.relu}
    exact = {"gelu": dict(approximate=False)}.get(name, {})
    function = functools.partial(plain.get(name, jax.nn.silu), **exact)
    x = 3 * random(200)

    found, expected = (
        jax.grad(lambda x, f=f: jnp.sum(f(x)))(x) for f in (ACTIVATIONS[name], function)
    )

    np.testing.assert_array_equal(ACTIVATIONS[name](x), function(x))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def kept_bytes_a_number(module, *, params=None):
    """What is kept for each number of the input, which has the dtype bfloat16."""
    B, L, D = 2, 4, 64
    params = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((B, L, D)))["params"]
    inputs = {"x": jax.ShapeDtypeStruct((B, L, D), jnp.bfloat16), "module": params}

    def loss(inputs, batch):
        # Doubled, since what is given anyway is not counted.
        return jnp.sum(module.apply({"params": inputs["module"]}, 2 * inputs["x"]))

    return saved_activation_bytes(loss, inputs, ()) / math.prod((B, L, D))


BF16 = jnp.dtype("bfloat16")
INIT = jax.nn.initializers.zeros


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (LayerNorm(1e-5, BF16), 2 + 2 * 4 / 64),  # The input, and two numbers a token.
        (RmsNorm(1e-5, BF16), 2 + 4 / 64),
    ],
)
def test_norms_keep_their_input_and_nothing_else_of_its_size(module, expected):
    assert kept_bytes_a_number(module) == expected


def test_a_gated_mlp_keeps_what_its_products_read_and_the_two_halves():
    module = GatedMlp(64, "silu", INIT, INIT, BF16, jnp.matmul)
    weights = 3 * 64 * 64 * 2 / (2 * 4 * 64)  # Their copies in 16 bits.

    # The input twice, for two products, both halves, and their gated product.
    assert kept_bytes_a_number(module) <= weights + 5 * 2


@pytest.mark.parametrize("look_up", [embed, embed_few])
def test_many_tokens_of_one_id_add_up_in_16_bits(look_up):
    ids_BL = jnp.zeros((8, 512), jnp.int32).at[0, :3].set(2)
    table = jnp.arange(12.0).reshape(3, 4)

    found = look_up(table, ids_BL, jnp.bfloat16)
    grads = jax.grad(lambda table: look_up(table, ids_BL, jnp.bfloat16).astype(float).sum())(table)

    np.testing.assert_array_equal(found, table[ids_BL])
    # A sum in 16 bits ends at 256, to which 1 adds nothing.
    np.testing.assert_allclose(grads, np.array([4093, 0, 3])[:, None] * np.ones(4), rtol=2**-8)
