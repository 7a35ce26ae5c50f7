"""What holds for every family, beside what is compared with `transformers`."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lm.errors import UserError
from lm.losses import likelihood
from lm.models.bert import BERTConfig
from lm.models.families import FAMILIES, family_of, init_params, param_shapes
from lm.models.gpt2 import GPT2
from lm.models.llama import LlamaConfig
from lm.models.t5 import T5Config
from lm.train.optimizers import decays
from tests import tiny

HOW = dict(dtype="float32", attention="einsum", matmul="plain", remat="none", scan_layers=False)
SIZE = dict(vocab_size=23, num_layers=2, num_heads=2, head_dim=4, model_dim=8, mlp_dim=12)
CONFIGS = {
    "bert": BERTConfig(
        **SIZE,
        **HOW,
        max_len=16,
        position_offset=2,
        num_types=1,
        norm_epsilon=1e-5,
        next_sentence=True,
        dropout=0.2,
    ),
    "llama": LlamaConfig(
        **SIZE,
        **HOW,
        max_len=16,
        num_kv_heads=1,
        mup_model_dim=0,
        mup_num_heads=0,
        mup_head_dim=0,
        mup_mlp_dim=0,
        rope_theta=100.0,
        rope_factor=1.0,
        rope_low_freq=1.0,
        rope_high_freq=4.0,
        rope_original_len=0,
        norm_epsilon=1e-5,
        qkv_bias=True,
        tied_output=False,
        window=5,
    ),
    "t5": T5Config(
        **SIZE,
        **HOW,
        num_buckets=8,
        max_distance=10,
        gated=True,
        tied_output=False,
        dropout=0.2,
    ),
}


def make(name, **changes):
    return FAMILIES[name].module(dataclasses.replace(CONFIGS[name], **changes))


def inputs(model):
    tokens_BL = jax.random.randint(jax.random.key(1), (2, 12), 0, 23)
    segments_BL = jnp.asarray([[1] * 12, [1] * 5 + [2] * 4 + [0] * 3])
    if family_of(model).architecture == "encoder_decoder":
        return tokens_BL, segments_BL, tokens_BL[:, ::-1], segments_BL
    return tokens_BL, jnp.broadcast_to(jnp.arange(12), (2, 12)), segments_BL


def gradients(model, params):
    def loss(params, key):
        output = model.apply(
            {"params": params}, *inputs(model), deterministic=False, rngs={"dropout": key}
        )
        targets_BL = jax.random.randint(jax.random.key(2), (2, 12), 0, 23)
        return likelihood.cross_entropy(output.logits(), targets_BL, jnp.ones((2, 12)))["loss"]

    return jax.jit(jax.value_and_grad(loss))(params, jax.random.key(5))


@pytest.mark.parametrize("name", CONFIGS)
def test_how_layers_are_computed_changes_neither_names_nor_numbers(name, random_like):
    params = random_like(param_shapes(make(name)))
    loss, grads = gradients(make(name), params)

    other = make(name, scan_layers=True, remat="full")
    other_loss, other_grads = gradients(other, params)

    assert jax.tree.map(lambda x: x.shape, param_shapes(other)) == jax.tree.map(np.shape, params)
    np.testing.assert_allclose(loss, other_loss, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), grads, other_grads
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_bfloat16_is_near_float32(name, random_like):
    params = random_like(param_shapes(make(name)), scale=0.2)
    exact, half = make(name), make(name, dtype="bfloat16")

    expected = jax.jit(exact.apply)({"params": params}, *inputs(exact)).logits()
    found = jax.jit(half.apply)({"params": params}, *inputs(half)).logits()

    assert found.dtype == jnp.bfloat16
    spread = np.std(expected)
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.15 * spread)


@pytest.mark.parametrize(("name", "number"), [("bert", 6), ("llama", 7), ("t5", (7 + 11) / 3)])
def test_8_bit_products_are_all_those_of_layers_and_no_others(name, number):
    def products_for_each_softmax(matmul):
        model = make(name, matmul=matmul)
        logits = lambda params: model.apply({"params": params}, *inputs(model)).logits()
        text = str(jax.make_jaxpr(logits)(param_shapes(model)))
        return text.count("name=fp8_matmul") / text.count("name=_softmax")

    assert products_for_each_softmax("fp8") == number
    assert products_for_each_softmax("plain") == 0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_a_prefix_is_seen_by_its_document_and_what_follows_it_is_not(name, random_like):
    model = GPT2(tiny.CONFIG) if name == "gpt2" else make(name, window=0)
    params = random_like(param_shapes(model))
    tokens_BL, positions_BL, segments_BL = inputs(model)
    prefix_BL = positions_BL < 4

    @jax.jit
    def logits(tokens_BL):
        inputs = tokens_BL, positions_BL, segments_BL, prefix_BL
        return model.apply({"params": params}, *inputs).logits()

    def changed(at):
        edited_BL = tokens_BL.at[1, at].set((tokens_BL[1, at] + 1) % 23)
        differs_BL = np.any(logits(tokens_BL) != logits(edited_BL), axis=-1)
        return differs_BL[1].nonzero()[0].tolist()

    assert changed(3) == [0, 1, 2, 3, 4]  # Row 1 is a document of 5 tokens and others.
    assert changed(4) == [4]


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_decay_and_neither_biases_nor_gains(name):
    paths = jax.tree_util.tree_flatten_with_path(param_shapes(make(name)))[0]
    by_decay = {True: set(), False: set()}
    for path, _ in paths:
        by_decay[decays(path)].add(path[-1].key)

    assert by_decay[True] <= {"kernel"} | {f"{n}_embedding" for n in EMBEDDINGS}
    assert by_decay[False] <= {"bias", "scale", "output_bias", "relative_bias"}


EMBEDDINGS = ("token", "position", "type", "output")
BAD = {
    "an odd rotary width": ("llama", dict(head_dim=5), "model.head_dim=5 must be even"),
    "heads that do not divide": ("llama", dict(num_heads=3, num_kv_heads=2), "num_kv_heads=2"),
    "a window of less than nothing": ("llama", dict(window=-1), "model.window=-1"),
    "a share of everything": ("bert", dict(dropout=1.0), "model.dropout=1.0"),
    "no layers": ("t5", dict(num_layers=0), "model.num_layers=0"),
    "an unknown remat": ("t5", dict(remat="some"), "model.remat='some'"),
    "an odd number of buckets": ("t5", dict(num_buckets=5), "model.num_buckets=5 must be even"),
    "a distance within the buckets": (
        "t5",
        dict(num_buckets=8, max_distance=4),
        "model.max_distance=4 must exceed half",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_impossible_hyperparameters_are_named(name):
    family, changes, message = BAD[name]
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIGS[family], **changes)


@pytest.mark.parametrize("name", CONFIGS)
def test_initialising_more_layers_compiles_no_more(name):
    def program(num_layers):
        init = lambda key: init_params(make(name, num_layers=num_layers), key)
        return jax.jit(init).lower(jax.random.key(0)).as_text().count("\n")

    assert program(7) == program(3)


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_of_tables_are_added_up_in_32_bits(name):
    model = make(name, dtype="bfloat16")

    text = str(jax.make_jaxpr(lambda p: gradients(model, p))(param_shapes(model)))

    assert re.search(r":f32\[.*\] = scatter-add", text)
    assert not re.search(r":bf16\[.*\] = scatter-add", text)
