import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from configs import common
from lm.costs.memory import tree_bytes
from lm.errors import UserError
from lm.models.families import FAMILIES, param_shapes
from lm.models.gpt2 import GPT2
from lm.models.layers import Dense
from lm.models.lora import LoraConfig, adapter_shapes, by_kernel, init_adapters, merge
from lm.parallel.mesh import make_mesh
from lm.parallel.param_rules import params_sharding
from lm.train.optimizers import decays, make_optimizer
from tests import tiny
from tests.models.all_families_test import CONFIGS

LORA = LoraConfig(rank=3, alpha=6, targets="/kernel$", rank_stabilized=False, dora=False)
KINDS = {
    "LoRA": LORA,
    "rsLoRA": dataclasses.replace(LORA, rank_stabilized=True),
    "DoRA": dataclasses.replace(LORA, dora=True),
}
MODELS = {"gpt2": tiny.CONFIG} | CONFIGS


def shapes_of(name):
    return param_shapes(FAMILIES[name].module(MODELS[name]))


@pytest.fixture(scope="module")
def params(random_like):
    """BERT's: it has kernels in its layers and outside."""
    return random_like(shapes_of("bert"))


@pytest.mark.parametrize("kind", KINDS)
def test_new_adapters_change_nothing_and_what_has_none_is_passed_through(kind, params):
    config = dataclasses.replace(KINDS[kind], targets="(query|out)/kernel")
    flat = flatten_dict(params)

    merged = flatten_dict(merge(params, init_adapters(params, config, jax.random.key(0)), config))

    assert merged.keys() == flat.keys()
    for path, x in flat.items():
        if path[-2:] not in (("query", "kernel"), ("out", "kernel")):
            assert merged[path] is x
        elif config.dora:
            np.testing.assert_allclose(merged[path], x, rtol=1e-6)
        else:
            np.testing.assert_array_equal(merged[path], x)


def last_layer(path, x):
    return x[-1] if "layers" in path else x


@pytest.mark.parametrize(
    ("name", "kind", "scale"),
    [(name, "LoRA", 6 / 3) for name in MODELS] + [("bert", "rsLoRA", 6 / math.sqrt(3))],
)
def test_a_merged_kernel_gives_what_it_gave_and_the_scaled_adapter_besides(
    name, kind, scale, random_like
):
    config, params = KINDS[kind], random_like(shapes_of(name))
    adapters = random_like(adapter_shapes(params, config), seed=1)

    merged = jax.jit(functools.partial(merge, config=config))(params, adapters)

    before, after = flatten_dict(params), flatten_dict(merged)
    assert by_kernel(adapters).keys() == {path for path in before if path[-1] == "kernel"}
    for path, adapter in by_kernel(adapters).items():
        a, b = last_layer(path, adapter["a"]), last_layer(path, adapter["b"])
        x = random_like(jax.ShapeDtypeStruct((5, *a.shape[:-1]), jnp.float32), seed=2)
        dense = Dense(
            b.shape[1:], jax.nn.initializers.zeros, jnp.float32, a.ndim - 1, use_bias=False
        )
        old, new = (
            dense.apply({"params": {"kernel": last_layer(path, t[path])}}, x)
            for t in (before, after)
        )
        low = np.tensordot(np.tensordot(x, a, a.ndim - 1), b, 1)
        np.testing.assert_allclose(new, old + scale * low, atol=1e-5, err_msg=path)


def test_dora_gives_a_unit_the_direction_of_lora_and_a_length_of_its_own(params, random_like):
    adapters = random_like(adapter_shapes(params, KINDS["DoRA"]), seed=1)

    found = flatten_dict(merge(params, adapters, KINDS["DoRA"]))
    directions = flatten_dict(merge(params, adapters, LORA))

    for path, adapter in by_kernel(adapters).items():
        length = last_layer(path, adapter["magnitude_scale"]).reshape(1, -1)
        matrices = (last_layer(path, tree[path]) for tree in (found, directions))
        found_IO, direction_IO = (x.reshape(-1, length.size) for x in matrices)
        direction_IO /= np.linalg.norm(direction_IO, axis=0, keepdims=True)
        np.testing.assert_allclose(found_IO, length * direction_IO, atol=1e-5, err_msg=path)


def test_a_unit_without_weights_stays_finite_with_dora():
    params = {"head": {"kernel": jnp.zeros((4, 2))}}
    adapters = init_adapters(params, KINDS["DoRA"], jax.random.key(0))

    total = lambda adapters: jnp.sum(merge(params, adapters, KINDS["DoRA"])["head"]["kernel"])
    value, grads = jax.value_and_grad(total)(adapters)

    assert value == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_gradients_of_a_loss_are_finite_differences(random_like):
    model, rows = GPT2(tiny.CONFIG), jnp.arange(10).reshape(2, 5)
    params = random_like(param_shapes(model))
    adapters = random_like(adapter_shapes(params, LORA), seed=1)
    direction = random_like(adapters, scale=1.0, seed=2)

    @jax.jit
    @jax.value_and_grad
    def loss(adapters):
        positions_BL = jnp.broadcast_to(jnp.arange(5), (2, 5))
        output = model.apply({"params": merge(params, adapters, LORA)}, rows, positions_BL, None)
        return -jnp.mean(jax.nn.log_softmax(output.logits())[:, :, 7])

    moved = lambda by: jax.tree.map(lambda x, d: x + by * d, adapters, direction)
    slope = (loss(moved(1e-3))[0] - loss(moved(-1e-3))[0]) / 2e-3

    along = sum(jax.tree.leaves(jax.tree.map(np.vdot, loss(adapters)[1], direction)))
    assert abs(slope) > 0.1
    np.testing.assert_allclose(along, slope, rtol=1e-2)


def test_what_a_target_draws_does_not_depend_on_the_others():
    params = tiny.shapes()
    key = jax.random.key(3)

    both = by_kernel(init_adapters(params, LORA, key))
    alone = by_kernel(
        init_adapters(params, dataclasses.replace(LORA, targets="mlp/out/kernel"), key)
    )

    ((path, adapter),) = alone.items()
    np.testing.assert_array_equal(adapter["a"], both[path]["a"])
    values = np.concatenate([x["a"].ravel() for x in both.values()])
    assert len(np.unique(values)) > 0.99 * len(values)
    for adapter in both.values():
        num_inputs = math.prod(adapter["a"].shape[1:-1])
        assert np.max(np.abs(adapter["a"])) <= num_inputs**-0.5
        assert np.std(adapter["a"]) == pytest.approx((3 * num_inputs) ** -0.5, rel=0.2)
        assert not adapter["b"].any()


def test_adapters_of_gpt2_cost_what_their_rank_says():
    size = dict(vocab_size=50257, max_len=1024, num_layers=12, num_heads=12, head_dim=64)
    model = GPT2(dataclasses.replace(tiny.CONFIG, **size, model_dim=768, mlp_dim=3072))
    config = dataclasses.replace(
        LORA, rank=8, targets="(attention/(query|value|out)|mlp/in)/kernel"
    )
    params = param_shapes(model)
    tx, _ = make_optimizer(
        num_steps=10, **common.optimizer("adamw", "constant", peak_lr=1e-3, warmup_steps=0)
    )

    adapters = adapter_shapes(params, config)
    with_lengths = adapter_shapes(params, dataclasses.replace(config, dora=True))

    count = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    expected = 12 * 8 * (3 * (768 + 768) + 768 + 3072)
    assert count(adapters) == expected
    assert count(with_lengths) == expected + 12 * (3 * 768 + 3072)
    assert tree_bytes(adapters) == 4 * expected
    state = jax.eval_shape(tx.init, adapters)
    assert 0 <= tree_bytes(state) - 2 * 4 * expected <= 16  # Counters of steps.
    assert jax.eval_shape(functools.partial(merge, config=config), params, adapters) == params


def test_lengths_do_not_decay_and_the_rest_does():
    paths = jax.tree_util.tree_flatten_with_path(adapter_shapes(tiny.shapes(), KINDS["DoRA"]))[0]

    assert {(path[-1].key, decays(path)) for path, _ in paths} == {
        ("a", True),
        ("b", True),
        ("magnitude_scale", False),
    }


def test_sharded_adapters_merge_to_the_same(random_like):
    shapes = tiny.shapes()
    adapters = random_like(adapter_shapes(shapes, KINDS["DoRA"]), seed=1)
    params = random_like(shapes)
    mesh = make_mesh(strategy="jit", data=1, fsdp=-1, tensor=1, sequence=1)
    put = lambda tree: jax.device_put(tree, params_sharding(tree, mesh))
    merged = functools.partial(merge, config=KINDS["DoRA"])

    found = jax.jit(merged, out_shardings=params_sharding(shapes, mesh))(put(params), put(adapters))

    one_device = merged(params, adapters)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), found, one_device)


BAD = {
    "a rank of nothing": (dict(rank=0), r"lora\.rank=0 must be at least 1"),
    "no scale": (dict(alpha=0.0), r"lora\.alpha=0.0 must be more than 0"),
    "NaN": (dict(alpha=float("nan")), r"lora\.alpha=nan must be more than 0, and finite"),
    "infinity": (dict(alpha=float("inf")), r"lora\.alpha=inf must be more than 0, and finite"),
    "no pattern": (dict(targets="(query"), r"lora\.targets='\(query' is no regular expression"),
    "a name that is not there": (
        dict(targets="q_proj"),
        "'q_proj' matches no parameter; kernels are layers/attention/key/kernel, ",
    ),
    "a bias": (dict(targets="attention/query"), "matches layers/attention/query/bias, which is no"),
    "an embedding": (dict(targets="embedding"), "matches position_embedding, which is no kernel"),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_settings_are_named(name):
    changes, message = BAD[name]
    with pytest.raises(UserError, match=message) as error:
        adapter_shapes(tiny.shapes(), dataclasses.replace(LORA, **changes))
    assert "\n" not in str(error.value)
