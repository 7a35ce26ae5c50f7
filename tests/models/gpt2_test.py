import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from lm.corpus.packing import Piece
from lm.errors import UserError
from lm.losses import likelihood
from lm.models.families import init_params
from lm.models.gpt2 import GPT2
from lm.objectives.causal import causal
from tests import tiny
from tests.tiny import rows_of

TINY = tiny.CONFIG
POSITIONS_BL = jnp.broadcast_to(jnp.arange(12), (2, 12))


@pytest.fixture(scope="module")
def params(random_like):
    """Larger than initial ones, so that every path through the model matters."""
    return random_like(tiny.shapes())


@pytest.fixture(scope="module")
def logits_of(params):
    apply = jax.jit(GPT2(TINY).apply)
    return lambda tokens_BL, segments_BL, positions_BL=POSITIONS_BL: apply(
        {"params": params}, tokens_BL, positions_BL, segments_BL
    ).logits()


def random_tokens(key=1):
    return jax.random.randint(jax.random.key(key), (2, 12), 0, 23)


@pytest.mark.parametrize("position", [0, 5, 11])
def test_logits_ignore_the_future(logits_of, position):
    tokens_BL = random_tokens()
    edited_BL = tokens_BL.at[:, position].set((tokens_BL[:, position] + 1) % 23)

    before = logits_of(tokens_BL, jnp.ones((2, 12), jnp.int32))
    after = logits_of(edited_BL, jnp.ones((2, 12), jnp.int32))

    np.testing.assert_array_equal(before[:, :position], after[:, :position])
    assert not np.allclose(before[:, position:], after[:, position:])


def test_logits_ignore_other_documents_of_the_row(logits_of):
    tokens_BL = random_tokens()
    segments_BL = jnp.asarray([[1] * 5 + [2] * 4 + [0] * 3] * 2)
    edited_BL = tokens_BL.at[:, 1].set((tokens_BL[:, 1] + 1) % 23)

    before, after = logits_of(tokens_BL, segments_BL), logits_of(edited_BL, segments_BL)

    np.testing.assert_array_equal(before[:, 5:], after[:, 5:])
    assert not np.allclose(before[:, 1:5], after[:, 1:5])


def test_padding_gives_finite_logits_and_gradients(params):
    def total(params):
        output = GPT2(TINY).apply(
            {"params": params}, random_tokens(), POSITIONS_BL, jnp.zeros((2, 12), jnp.int32)
        )
        return jnp.sum(jax.nn.log_softmax(output.logits())[..., 0])

    value, grads = jax.jit(jax.value_and_grad(total))(params)

    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_a_packed_row_costs_what_its_documents_cost_alone(params):
    documents = [np.arange(n) * 7 % 23 for n in (6, 2, 3)]
    pieces = [Piece(d, next_token) for d, next_token in zip(documents, (9, -1, -1), strict=True)]
    packed = rows_of([pieces, []], 12, pad_id=0)
    alone = rows_of([[piece] for piece in pieces], 12, pad_id=0)

    @jax.jit
    def sums(rows):
        batch = causal(rows, None)
        logits_BLV = GPT2(TINY).apply({"params": params}, **batch.inputs).logits()
        return likelihood.cross_entropy(logits_BLV, batch.targets_BL, batch.weights_BL)

    assert sums(packed)["num_tokens"] == sums(alone)["num_tokens"] == 6 + 1 + 2
    np.testing.assert_allclose(sums(packed)["nll"], sums(alone)["nll"], rtol=1e-6)


@functools.cache
def gradient_fn(dropout_on, **changes):
    model = GPT2(dataclasses.replace(TINY, **changes))

    def loss(params, key):
        output = model.apply(
            {"params": params},
            random_tokens(),
            POSITIONS_BL,
            jnp.ones((2, 12), int),
            deterministic=not dropout_on,
            rngs={"dropout": key},
        )
        weights_BL = jnp.ones((2, 12))
        return likelihood.cross_entropy(output.logits(), random_tokens(2), weights_BL)["loss"]

    return jax.jit(jax.value_and_grad(loss))


def gradients(params, key=None, **changes):
    fn = gradient_fn(key is not None, **changes)
    return fn(params, jax.random.key(0) if key is None else key)


@pytest.mark.parametrize(
    "changes",
    [dict(scan_layers=True), dict(remat="dots"), dict(remat="full", scan_layers=True)],
    ids=str,
)
def test_how_layers_are_computed_changes_neither_names_nor_numbers(params, changes):
    key = jax.random.key(5)
    loss, grads = gradients(params, key, dropout=0.2)
    other_loss, other_grads = gradients(params, key, dropout=0.2, **changes)
    names = jax.tree.map(lambda x: x.shape, tiny.shapes())

    assert names == jax.tree.map(
        lambda x: x.shape, tiny.shapes(dataclasses.replace(TINY, **changes))
    )
    np.testing.assert_allclose(loss, other_loss, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, other_grads
    )


def test_dropout_depends_on_its_key_and_is_off_in_evaluation(params):
    first, again, other = (gradients(params, jax.random.key(k), dropout=0.5)[0] for k in (0, 0, 1))
    plain, evaluated = gradients(params)[0], gradients(params, dropout=0.5)[0]

    assert first == again
    assert first != other
    assert plain == evaluated


def test_residual_projections_start_smaller_with_depth():
    tokens_BL = jnp.zeros((1, 4), jnp.int32)
    config = dataclasses.replace(TINY, num_layers=8, model_dim=64, head_dim=32, mlp_dim=256)
    init = jax.jit(GPT2(config).init)
    params = init(jax.random.key(0), tokens_BL, tokens_BL, None)["params"]["layers"]

    np.testing.assert_allclose(params["attention"]["query"]["kernel"].std(), 0.02, rtol=0.02)
    np.testing.assert_allclose(params["attention"]["out"]["kernel"].std(), 0.02 / 4, rtol=0.02)
    np.testing.assert_allclose(params["mlp"]["out"]["kernel"].std(), 0.02 / 4, rtol=0.02)


@pytest.mark.parametrize(
    "changes",
    [dict(remat="some"), dict(dropout=1.0), dict(num_heads=0), dict(dtype="int8")],
    ids=str,
)
def test_impossible_hyperparameters_are_named(changes):
    (name,) = changes
    with pytest.raises(UserError, match=f"model.{name}"):
        dataclasses.replace(TINY, **changes)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_tracing_a_block_without_the_check_of_flax_gives_the_same_programs(dropout, monkeypatch):
    model = GPT2(dataclasses.replace(tiny.CONFIG, dropout=dropout))
    ids_BL, key = jax.ShapeDtypeStruct((2, 8), jnp.int32), jax.random.key(0)
    params = tiny.shapes()

    def programs():
        init = lambda key: init_params(model, key)
        train = lambda params, ids_BL, key: model.apply(
            {"params": params},
            *(ids_BL, ids_BL, ids_BL),
            deterministic=False,
            rngs={"dropout": key},
            method=model.hidden_states,
        )
        return [
            jax.jit(init).lower(key).as_text(),
            jax.jit(train).lower(params, ids_BL, key).as_text(),
        ]

    found, scan = programs(), nn.scan
    checked = {"check_constancy_invariants": True}
    monkeypatch.setattr(nn, "scan", lambda *args, **settings: scan(*args, **settings | checked))

    assert programs() == found
