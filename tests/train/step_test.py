import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.corpus.packing import Piece
from lm.models.gpt2 import GPT2
from lm.objectives.causal import causal
from lm.parallel.batches import place_batch
from lm.parallel.mesh import make_mesh
from lm.train import compile
from lm.train.evaluation import evaluate
from lm.train.language_model import make_eval_step, make_loss_fn
from lm.train.step import TrainState, train_step
from tests import tiny
from tests.tiny import rows_of

KEY = jax.random.key(0)
MESH = make_mesh(strategy="jit", data=1, fsdp=1, tensor=1, sequence=1, devices=1)


def unequal_rows():
    """Eight rows with 12, 1, 11, 2, ... tokens to predict: a mean of means would be far off."""
    rng = np.random.default_rng(0)
    lengths = [13, 2, 12, 3, 9, 4, 5, 2]
    pieces = [[Piece(rng.integers(0, 23, n), -1)] for n in lengths]
    return rows_of(pieces, 16, pad_id=0)


@pytest.fixture(scope="module")
def params(random_like):
    return random_like(tiny.shapes())


@pytest.fixture(scope="module")
def loss_fn():
    return make_loss_fn(GPT2(tiny.CONFIG), z_loss=1e-3, label_smoothing=0.1, num_blocks=1)


SGD = optax.sgd(1.0)


def make_step(loss_fn, accumulate_steps=1, tx=SGD, **shardings):
    def step(state, rows):
        return train_step(
            state,
            causal(rows, KEY),
            KEY,
            loss_fn=loss_fn,
            tx=tx,
            accumulate_steps=accumulate_steps,
        )

    return jax.jit(step, **shardings)


kept_step = functools.cache(make_step)


def step_once(params, loss_fn, rows, accumulate_steps=1):
    return kept_step(loss_fn, accumulate_steps)(TrainState.create(params, SGD), rows)


@pytest.mark.parametrize("accumulate_steps", [2, 4])
def test_micro_batches_make_the_same_update_as_the_batch(params, loss_fn, accumulate_steps):
    whole, metrics = step_once(params, loss_fn, unequal_rows())
    pieces, other_metrics = step_once(params, loss_fn, unequal_rows(), accumulate_steps)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        whole.params,
        pieces.params,
    )
    for name in metrics:
        np.testing.assert_allclose(metrics[name], other_metrics[name], rtol=1e-5, err_msg=name)
    assert metrics["num_tokens"] == 12 + 1 + 11 + 2 + 8 + 3 + 4 + 1


def test_bfloat16_is_for_arithmetic_and_the_weights_keep_float32(params, loss_fn):
    half = dataclasses.replace(tiny.CONFIG, dtype="bfloat16")
    half_fn = make_loss_fn(GPT2(half), z_loss=1e-3, label_smoothing=0.1, num_blocks=1)
    apply = jax.jit(GPT2(half).apply)

    exact, exact_metrics = step_once(params, loss_fn, unequal_rows())
    rounded, metrics = step_once(params, half_fn, unequal_rows())

    rows = unequal_rows()
    output = apply({"params": params}, rows.tokens_BL, rows.positions_BL, rows.segment_ids_BL)
    assert output.logits().dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(rounded.params)} == {np.dtype("float32")}
    np.testing.assert_allclose(metrics["loss"], exact_metrics["loss"], rtol=0.02)
    flat = lambda tree: np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])
    moved = lambda state: flat(state.params) - flat(params)
    correlation = np.corrcoef(moved(exact), moved(rounded))[0, 1]
    assert correlation > 0.99


def test_padding_and_empty_rows_change_nothing(params, loss_fn):
    rows = unequal_rows()
    emptied = jax.tree.map(lambda x: np.concatenate([x, np.zeros_like(x)]), rows)
    emptied = emptied.replace(
        next_BL=np.concatenate([rows.next_BL, np.full_like(rows.next_BL, -1)])
    )

    before, after = (step_once(params, loss_fn, r)[0].params for r in (rows, emptied))

    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6), before, after)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(params, loss_fn, bad):
    def poisoned(params, batch, key):
        sums = loss_fn(params, batch, key)
        return sums | {"loss": sums["loss"] * bad}

    tx = optax.adamw(1e-3)
    state = TrainState.create(params, tx)
    after, metrics = make_step(poisoned, tx=tx)(state, unequal_rows())

    assert metrics["skipped"] == 1
    assert after.step == 1
    jax.tree.map(np.testing.assert_array_equal, after.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, after.opt_state, state.opt_state)


def test_the_loss_is_what_optax_computes(params):
    rows = unequal_rows()
    batch = causal(rows, KEY)
    sums = make_eval_step(GPT2(tiny.CONFIG), causal, MESH)(params, rows)
    logits_BLV = jax.jit(GPT2(tiny.CONFIG).apply)({"params": params}, **batch.inputs).logits()
    nll_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, batch.targets_BL)

    np.testing.assert_allclose(sums["nll"], jnp.sum(nll_BL * batch.weights_BL), rtol=1e-6)


def test_evaluation_does_not_depend_on_the_batch_size(params):
    rows = unequal_rows()
    eval_step = make_eval_step(GPT2(tiny.CONFIG), causal, MESH)

    def batches(size):
        for start in range(0, 8, size):
            batch = jax.tree.map(lambda x, s=start: x[s : s + size], rows)
            missing = size - len(batch.tokens_BL)
            empty = rows_of([[]] * missing, 16, pad_id=0)
            yield jax.tree.map(lambda a, b: np.concatenate([a, b]), batch, empty)

    results = [evaluate(params, eval_step, batches(size), num_bytes=100) for size in (1, 3, 8)]

    for result in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_allclose(result[name], value, rtol=1e-6, err_msg=name)


def test_one_device_and_several_make_the_same_update(params, loss_fn):

    single, metrics = step_once(params, loss_fn, unequal_rows())
    mesh = make_mesh(strategy="jit", data=1, fsdp=-1, tensor=1, sequence=1)
    state = TrainState.create(params, SGD)
    shardings = compile.state_sharding(state, mesh)
    step = make_step(loss_fn, out_shardings=(shardings, None))
    rows = place_batch(unequal_rows(), mesh)
    many, other_metrics = step(jax.device_put(state, shardings), rows)

    assert mesh.size > 1
    assert len(many.params["token_embedding"].sharding.device_set) == mesh.size
    np.testing.assert_allclose(metrics["loss"], other_metrics["loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=2e-6),
        single.params,
        many.params,
    )
