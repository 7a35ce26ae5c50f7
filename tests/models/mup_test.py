"""muP: what is scaled, by how much, and that everything that computes with a model agrees on it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from configs import common, families
from experiments.wiring import pretraining
from lm.errors import UserError
from lm.generation import decoding
from lm.models import kernels, masks, mup
from lm.models.families import FAMILIES, init_params, param_shapes
from lm.models.gpt2 import GPT2
from lm.models.kv_cache import unstack_for_decoding
from lm.train.optimizers import make_optimizer
from tests import tiny
from tests.models.all_families_test import CONFIGS, inputs

# A quarter as wide in D and HK, an eighth in F, half in K.
BASE = dict(mup_model_dim=2, mup_num_heads=1, mup_head_dim=2, mup_mlp_dim=4)
GPT2_CONFIG = tiny.CONFIG
LLAMA_CONFIG = dataclasses.replace(CONFIGS["llama"], mlp_dim=32)
DECODERS = {"gpt2": GPT2_CONFIG, "llama": LLAMA_CONFIG}


def make(name, **changes):
    return FAMILIES[name].module(dataclasses.replace(DECODERS[name], **changes))


def at_its_base(config):
    return {name: getattr(config, name.removeprefix("mup_")) for name in mup.FIELDS}


# Table 8 of Yang et al. 2022 by hand, at the widths of BASE: standard deviation, rate of Adam, rate
# of SGD; and the rate of Muon.
TABLE = {
    "token_embedding": (1, 1, 4, 1),
    "position_embedding": (1, 1, 4, 1),
    "output_embedding": (1, 1, 4, 1),
    "final_norm/scale": (1, 1, 4, 1),
    "final_norm/bias": (1, 1, 4, 1),
    "layers/attention_norm/scale": (1, 1, 4, 1),
    "layers/attention/query/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/attention/key/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/attention/value/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/attention/out/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/attention/query/bias": (1, 1, 4, 1),
    "layers/attention/out/bias": (1, 1, 4, 1),
    "layers/mlp/in/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/mlp/gate/kernel": (1 / 2, 1 / 4, 1, 1 / 2),
    "layers/mlp/out/kernel": (8**-0.5, 1 / 8, 1, 8**-0.5),
    "layers/mlp/in/bias": (1, 1, 8, 1),
    "layers/mlp/out/bias": (1, 1, 4, 1),
}


@pytest.mark.parametrize("name", DECODERS)
def test_initial_weights_and_rates_are_those_of_the_table(name, random_like):
    model = make(name, **BASE)
    drawn = random_like(param_shapes(model))
    params = flatten_dict(mup.scaled_init(model.config, drawn), sep="/")
    drawn = flatten_dict(drawn, sep="/")
    ones = jax.tree.map(jnp.ones_like, param_shapes(model))
    rates = {
        optimizer: flatten_dict(
            mup.scaled_updates(ones, optimizer, mup.growth(model.config)), sep="/"
        )
        for optimizer in ("adamw", "lion", "sgd", "muon")
    }

    covered = params.keys() & TABLE.keys()
    assert len(covered) >= 12
    for path in covered:
        init, adam, sgd, muon = TABLE[path]
        np.testing.assert_allclose(params[path], init * drawn[path], rtol=1e-6, err_msg=path)
        found = [np.unique(rates[o][path]) for o in ("adamw", "lion", "sgd", "muon")]
        np.testing.assert_allclose(np.concatenate(found), [adam, adam, sgd, muon], rtol=1e-6)


def test_a_parameter_without_a_rule_is_an_error(random_like):
    params = random_like(param_shapes(make("gpt2")))
    params["layers"]["mlp"]["new"] = {"kernel": jnp.ones((2, 8, 8))}

    with pytest.raises(UserError, match="layers/mlp/new/kernel has no rule"):
        mup.scaled_updates(params, "adamw", mup.growth(make("gpt2", **BASE).config))


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_step_at_the_base_shape_is_the_same_program_as_without_muP(optimizer):
    def program(**changes):
        config = dataclasses.replace(GPT2_CONFIG, **changes)
        tx, _ = make_optimizer(
            num_steps=10,
            growth=mup.growth(config),
            **common.optimizer(optimizer, "constant", peak_lr=0.1, warmup_steps=0),
        )

        def step(tokens_BL, key):
            params = init_params(GPT2(config), key)
            output = lambda params: GPT2(config).apply({"params": params}, *tokens_BL)
            loss = lambda params: jnp.sum(output(params).logits())
            updates, _ = tx.update(jax.grad(loss)(params), tx.init(params), params)
            return optax.apply_updates(params, updates)

        return str(jax.make_jaxpr(step)(inputs(GPT2(config)), jax.random.key(0)))

    assert program() == program(**at_its_base(GPT2_CONFIG))
    assert program() != program(**BASE)


def test_decay_is_the_same_at_every_width():
    # The rate times the decay, also where the rate of a parameter's updates is another.
    block = common.optimizer("adamw", "constant", peak_lr=0.1, warmup_steps=0, weight_decay=0.5)
    growth = mup.growth(make("gpt2", **BASE).config)
    tx, _ = make_optimizer(num_steps=10, growth=growth, **block)
    params = {"layers": {"mlp": {"out": {"kernel": jnp.ones((2, 32, 8))}}}}

    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)

    np.testing.assert_allclose(jax.tree.leaves(updates)[0], -0.05, rtol=1e-6)


@pytest.mark.parametrize("name", DECODERS)
def test_logits_through_a_cache_and_of_folded_weights_are_those_of_the_model(name, random_like):
    model = make(name, **BASE)
    params = random_like(param_shapes(model), scale=0.4)
    tokens_BL, positions_BL, _ = inputs(model)
    inputs_BL = tokens_BL, positions_BL, None
    logits = lambda model, params: jax.jit(model.apply)({"params": params}, *inputs_BL).logits()
    logits_BLV = logits(model, params)

    lengths_B = jnp.full(2, 12)
    cached_BV, *_ = jax.jit(
        lambda params: decoding.start(model, params, tokens_BL, lengths_B, num_new=1, start_id=0)
    )(unstack_for_decoding(params, jnp.float32))
    block, folded = mup.folded(
        dataclasses.asdict(model.config), params, model.config, has_output=True
    )
    plain = FAMILIES[name].module(type(model.config)(**block))

    assert mup.growth(plain.config) is None
    np.testing.assert_allclose(cached_BV, logits_BLV[:, -1], atol=2e-5)
    np.testing.assert_allclose(logits(plain, folded), logits_BLV, atol=2e-5)
    assert np.abs(logits(plain, params) - logits_BLV).max() > 0.1


def test_every_kernel_takes_the_scale_of_scores():
    q, k, v = (np.random.default_rng(i).normal(size=(2, 8, 2, 8)).astype("f") for i in range(3))
    seen = masks.causal(jnp.ones((2, 8), jnp.int32))
    expected = kernels.einsum_attention(q * 8**0.5 * 0.7, k, v, visible=seen)
    assert np.abs(expected - kernels.einsum_attention(q, k, v, visible=seen)).max() > 0.1

    more = {"cudnn": dict(implementation="xla"), "cudnn_lengths": dict(implementation="xla")}
    more["splash"] = dict(interpret=True)
    for name, kernel in kernels.KERNELS.items():
        found = kernel(q, k, v, visible=seen, scale=0.7, **more.get(name, {}))
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.mup_model_dim": 64}, "model.mup_num_heads=0.*make all of a base shape 1 at least"),
        ({f"model.{key}": -64 for key in BASE}, "model.mup_model_dim=-64.*1 at least"),
        (
            {"optimizer": common.optimizer("adafactor", "constant", peak_lr=1.0, warmup_steps=0)}
            | {f"model.{key}": 64 for key in BASE},
            "optimizer.name=adafactor has no rule.*choose adamw",
        ),
    ],
)
def test_what_cannot_be_scaled_is_refused(changes, message):
    config = families.get_config("family=gpt2,debug")
    config.update_from_flattened_dict({k: v for k, v in changes.items() if k != "optimizer"})
    if "optimizer" in changes:
        config.optimizer = changes["optimizer"]

    with pytest.raises(UserError, match=message):
        pretraining.make_parts(config)
