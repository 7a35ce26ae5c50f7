"""What an observer sees of a model, and that a model that no one observes is not changed by it."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from lm.models import bert, gpt2, kernels, llama, t5
from lm.models.families import FAMILIES, family_of, init_params, param_shapes
from lm.models.sites import Site
from lm.objectives.batch import Batch
from lm.train.language_model import make_loss_fn
from lm.train.step import TrainState, train_step
from tests import tiny
from tests.models.all_families_test import CONFIGS

CONFIGS = {"gpt2": tiny.CONFIG, **CONFIGS}
TOKENS_BL = jax.random.randint(jax.random.key(1), (2, 12), 0, 23)
SEGMENTS_BL = jnp.asarray([[1] * 12, [1] * 5 + [2] * 4 + [0] * 3])
POSITIONS_BL = jnp.broadcast_to(jnp.arange(12), (2, 12))


def inputs_of(model):
    inputs = dict(tokens_BL=TOKENS_BL, segment_ids_BL=SEGMENTS_BL)
    if family_of(model).architecture != "encoder_decoder":
        return inputs | dict(positions_BL=POSITIONS_BL)
    tokens_BM = TOKENS_BL[:, ::-1]
    return inputs | dict(encoder_tokens_BM=tokens_BM, encoder_segment_ids_BM=SEGMENTS_BL)


@pytest.fixture(
    scope="module",
    params=[(name, scanned) for name in CONFIGS for scanned in (False, True)],
    ids=lambda param: f"{param[0]}-{'scanned' if param[1] else 'unrolled'}",
)
def observed(request, random_like):
    """A family's name, its parameters, and what passes its sites."""
    name, scanned = request.param
    remat = "full" if scanned else "none"
    config = dataclasses.replace(CONFIGS[name], scan_layers=scanned, remat=remat)
    model = FAMILIES[name].module(config)
    params = random_like(param_shapes(model))
    look = lambda params: model.apply(
        {"params": params},
        **inputs_of(model),
        capture_intermediates=lambda module, _: isinstance(module, Site),
        mutable=["intermediates"],
    )
    _, seen = jax.jit(look)(params)
    return name, params, seen["intermediates"]


def test_probabilities_are_of_what_a_query_sees(observed):
    name, _, seen = observed
    same_BLM = np.asarray(SEGMENTS_BL[:, :, None] == SEGMENTS_BL[:, None, :])
    past_LM = np.tri(12, dtype=bool)
    recent_LM = past_LM & ~np.tri(12, k=-5, dtype=bool)  # The window of the tiny Llama.
    found = {
        "bert": lambda: [(seen["encoder"]["layers"]["attention"], same_BLM)],
        "gpt2": lambda: [(seen["layers"]["attention"], same_BLM & past_LM)],
        "llama": lambda: [(seen["layers"]["attention"], same_BLM & recent_LM)],
        "t5": lambda: [
            (seen["encoder"]["layers"]["attention"], same_BLM),
            (seen["decoder"]["layers"]["attention"], same_BLM & past_LM),
            (seen["decoder"]["layers"]["cross_attention"], same_BLM),
        ],
    }[name]()

    for attention, mask_BLM in found:
        (probs_NBHLM,) = attention["probs"]["__call__"]
        assert probs_NBHLM.shape == (2, 2, 2, 12, 12)
        np.testing.assert_allclose(probs_NBHLM.sum(axis=-1), 1, rtol=1e-5)
        np.testing.assert_array_equal(
            probs_NBHLM > 0, np.broadcast_to(mask_BLM[None, :, None], probs_NBHLM.shape)
        )
        assert not np.allclose(probs_NBHLM[0], probs_NBHLM[1])  # Each layer's own.


def test_embeddings_are_those_of_the_tokens(observed):
    name, params, seen = observed
    of_tokens = lambda params, tokens_BL: np.asarray(params["token_embedding"])[tokens_BL]
    if name == "bert":
        params, seen = params["encoder"], seen["encoder"]
        x_BLD = of_tokens(params, TOKENS_BL) + params["type_embedding"][0]
        x_BLD = x_BLD + params["position_embedding"][POSITIONS_BL + 2]
        x_BLD = (x_BLD - x_BLD.mean(-1, keepdims=True)) / (
            x_BLD.var(-1, keepdims=True) + 1e-5
        ) ** 0.5
        norm = params["embedding_norm"]
        expected = [(seen, x_BLD * norm["scale"] + norm["bias"])]
    elif name == "t5":
        expected = [
            (seen["encoder"], of_tokens(params, TOKENS_BL[:, ::-1])),
            (seen["decoder"], of_tokens(params, TOKENS_BL)),
        ]
    else:
        x_BLD = of_tokens(params, TOKENS_BL)
        if name == "gpt2":
            x_BLD = x_BLD + params["position_embedding"][POSITIONS_BL]
        expected = [(seen, x_BLD)]

    for at, x_BLD in expected:
        np.testing.assert_allclose(at["embedding"]["__call__"][0], x_BLD, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_an_unobserved_training_step_is_the_same_program_without_sites(name, monkeypatch):
    config = dataclasses.replace(CONFIGS[name], scan_layers=name in ("bert", "t5"))
    model, tx = FAMILIES[name].module(config), optax.sgd(0.1)
    batch = Batch(inputs_of(model), TOKENS_BL, jnp.ones((2, 12)))

    def program():
        loss_fn = make_loss_fn(model, z_loss=0.0, label_smoothing=0.0, num_blocks=1)
        step = lambda state, batch, key: train_step(
            state, batch, key, loss_fn=loss_fn, tx=tx, accumulate_steps=1
        )
        first = lambda key: TrainState.create(init_params(model, key), tx)
        state = jax.eval_shape(first, jax.random.key(0))
        text = jax.jit(step).lower(state, batch, jax.random.key(0)).compile().as_text()
        # What is left are instructions, without where in our files they come from.
        lines = [line for line in text.splitlines() if re.match(r"\s*(ROOT )?%", line)]
        return [re.sub(r", metadata=\{[^}]*\}", "", line) for line in lines]

    with_sites = program()
    for module in (kernels, bert, gpt2, llama, t5):
        monkeypatch.setattr(module, "Site", lambda name=None: lambda x: x)

    assert len(with_sites) > 100
    assert program() == with_sites
