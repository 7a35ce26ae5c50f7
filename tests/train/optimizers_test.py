import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch

from configs import common
from lm.errors import UserError
from lm.train import schedules
from lm.train.optimizers import SCALARS, evaluation_params, make_optimizer
from tests import tiny


def build(name="adamw", schedule="constant", num_steps=10, **changes):
    block = common.optimizer(name, schedule, peak_lr=0.1, warmup_steps=0, **changes)
    return make_optimizer(num_steps=num_steps, **block)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("constant", {}, [1, 1, 1]),
        ("linear", dict(final_lr_ratio=0.2), [1, 0.6, 0.2]),
        ("cosine", dict(final_lr_ratio=0.2), [1, 0.6, 0.2]),
        ("wsd", dict(final_lr_ratio=0.0, decay_ratio=0.25), [1, 1, 0]),
    ],
)
def test_schedules_at_their_start_middle_and_end(name, settings, expected):
    schedule = schedules.SCHEDULES[name](peak_lr=1.0, num_steps=8, **settings)

    np.testing.assert_allclose([schedule(s) for s in (0, 4, 8)], expected, rtol=1e-6)


def test_wsd_falls_only_at_the_end():
    schedule = schedules.wsd(peak_lr=1.0, num_steps=8, final_lr_ratio=0.0, decay_ratio=0.25)

    np.testing.assert_allclose([schedule(s) for s in (6, 7, 8)], [1, 0.5, 0])


@pytest.mark.parametrize("name", sorted(schedules.SCHEDULES))
def test_the_rates_of_a_log_are_those_of_the_schedule(name):
    wsd = {"decay_ratio": 0.2} if name == "wsd" else {}
    block = common.optimizer(name="sgd", schedule=name, peak_lr=0.1, warmup_steps=100, **wsd)
    _, schedule = make_optimizer(num_steps=3000, **block)
    steps = (0, 50, 100, 1023, 1024, 2999)  # Not only of the first block that is computed.

    rates = schedules.on_host(schedule)

    expected = [float(schedule(step)) for step in steps]
    np.testing.assert_allclose([rates(step) for step in steps], expected, rtol=1e-5)


def test_rsqrt_is_half_after_four_times_the_warmup():
    _, rate = make_optimizer(
        num_steps=100,
        **common.optimizer("adamw", "rsqrt", peak_lr=1.0, warmup_steps=4),
    )

    np.testing.assert_allclose([rate(s) for s in (0, 1, 4, 16)], [0.2, 0.4, 1, 0.5], rtol=1e-6)


def test_adamw_is_torch():
    params = {"kernel": jnp.linspace(-1, 1, 6).reshape(2, 3), "bias": jnp.ones(3)}
    grads = {"kernel": jnp.linspace(2, -3, 6).reshape(2, 3), "bias": jnp.linspace(0, 9, 3)}
    tx, _ = build(clip_norm=0.5)
    ours = torch.nn.ParameterDict(
        {k: torch.nn.Parameter(torch.tensor(np.array(v))) for k, v in params.items()}
    )
    groups = [
        {"params": [ours["kernel"]], "weight_decay": 0.1},
        {"params": [ours["bias"]], "weight_decay": 0.0},
    ]
    theirs = torch.optim.AdamW(groups, lr=0.1, betas=(0.9, 0.95), eps=1e-8)

    opt_state = tx.init(params)
    for _ in range(3):
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        for name, p in ours.items():
            p.grad = torch.tensor(np.array(grads[name]))
        torch.nn.utils.clip_grad_norm_(ours.values(), 0.5)
        theirs.step()

    for name, p in ours.items():
        np.testing.assert_allclose(params[name], p.detach().numpy(), rtol=1e-5)


def test_muon_is_the_reference_within_what_small_singular_values_lose():
    rng = np.random.default_rng(0)

    def kernel(*shape):
        """Of two layers; singular values over six orders of magnitude."""
        u, s, v = np.linalg.svd(rng.standard_normal((2, *shape)), full_matrices=False)
        return jnp.asarray(u * np.logspace(0, -6, s.shape[-1]) @ v, jnp.float32)

    def gradients():
        return {
            "layers": {
                "mlp": {"in": {"kernel": kernel(24, 96)}, "out": {"kernel": kernel(96, 24)}},
                "attention": {
                    "query": {"kernel": kernel(24, 24).reshape(2, 24, 3, 8)},
                    "out": {"kernel": kernel(24, 24).reshape(2, 3, 8, 24), "bias": jnp.ones(24)},
                },
            },
            "token_embedding": jnp.linspace(-1, 1, 6).reshape(3, 2),
        }

    numbers = optax.contrib.MuonDimensionNumbers
    dims = {
        "layers": {
            "mlp": {"in": {"kernel": numbers(1, 2)}, "out": {"kernel": numbers(1, 2)}},
            "attention": {
                "query": {"kernel": numbers(1, (2, 3))},
                "out": {"kernel": numbers((1, 2), 3), "bias": None},
            },
        },
        "token_embedding": None,
    }
    ours, _ = build("muon", clip_norm=0.0, weight_decay=0.0)
    theirs = optax.contrib.muon(
        0.1, adam_b2=0.95, muon_weight_dimension_numbers=dims, consistent_rms=0.2
    )
    params = gradients()
    state, reference = ours.init(params), theirs.init(params)
    assert jax.tree.structure(state[0][0]) == jax.tree.structure(reference)  # As in checkpoints.

    for _ in range(2):
        grads = gradients()
        updates, state = jax.jit(ours.update)(grads, state, params)
        wanted, reference = jax.jit(theirs.update)(grads, reference, params)

        for (path, a), b in zip(
            jax.tree_util.tree_flatten_with_path(updates)[0], jax.tree.leaves(wanted), strict=True
        ):
            within = 4e-3 if "mlp" in str(path) else 1e-4
            rms = np.sqrt(np.mean(np.square(b)))
            np.testing.assert_allclose(a, b, rtol=0, atol=within * rms, err_msg=str(path))


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "muon", "sgd"])
def test_every_rule_lowers_a_quadratic_and_decays_matrices_only(name, random_like):
    params = random_like(tiny.shapes(), scale=1.0)
    tx, _ = build(name, weight_decay=0.0)
    decayed_tx, _ = build(name, weight_decay=0.5)
    loss = lambda params: sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    @jax.jit
    def step(params):
        grads = jax.grad(loss)(params)
        plain, _ = tx.update(grads, tx.init(params), params)
        decayed, _ = decayed_tx.update(grads, decayed_tx.init(params), params)
        return loss(optax.apply_updates(params, plain)), plain, decayed

    after, plain, decayed = step(params)

    assert after < loss(params)
    for (path, a), b in zip(
        jax.tree_util.tree_flatten_with_path(plain)[0], jax.tree.leaves(decayed), strict=True
    ):
        differs = not np.array_equal(a, b)
        assert differs == (path[-1].key not in ("bias", "scale")), path


@pytest.mark.parametrize("name", ["adamw", "lion", "adafactor", "sgd"])
def test_settings_may_be_arrays_and_then_do_the_same(name, random_like):
    params, grads = (random_like(tiny.shapes(), scale=1.0, seed=seed) for seed in (1, 2))
    block = common.optimizer(name, "cosine", peak_lr=0.3, warmup_steps=1)
    block |= {"b2": 0.9999} if "b2" in block else {}  # Of which 1 - b2 has few digits left.
    scalars = {key: block[key] for key in SCALARS if key in block}

    def updates(scalars):
        tx, _ = make_optimizer(num_steps=10, **block | scalars)
        _, opt_state = tx.update(grads, tx.init(params), params)
        return tx.update(params, opt_state, params)

    as_numbers = jax.jit(lambda: updates(scalars))()
    as_arrays = jax.jit(updates)(jax.tree.map(jnp.float32, scalars))

    for a, b in zip(*map(jax.tree.leaves, (as_numbers, as_arrays)), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-6, atol=1e-7)


def test_averaged_weights_follow_at_their_own_pace():
    tx, _ = build(ema_decay=0.75, clip_norm=0.0, weight_decay=0.0)
    params = {"kernel": jnp.zeros((2, 2))}
    opt_state = tx.init(params)
    assert evaluation_params(params, opt_state) is not params

    updates, opt_state = tx.update({"kernel": jnp.ones((2, 2))}, opt_state, params)
    params = optax.apply_updates(params, updates)

    averaged = evaluation_params(params, opt_state)
    np.testing.assert_allclose(averaged["kernel"], 0.25 * params["kernel"], rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(name="adamz"), "optimizer.name='adamz'"),
        (dict(schedule="cosin"), "optimizer.schedule='cosin'"),
        (dict(momentum=0.9), "optimizer.momentum=0.9 is read neither"),
        (dict(layer_decay=2.0), "optimizer.layer_decay=2.0"),
    ],
)
def test_settings_that_cannot_work_are_named(changes, message):
    block = common.optimizer("adamw", "cosine", peak_lr=0.1, warmup_steps=1) | changes

    with pytest.raises(UserError, match=message):
        make_optimizer(num_steps=10, **block)


def test_a_setting_that_is_missing_is_named():
    block = common.optimizer("adamw", "cosine", peak_lr=0.1, warmup_steps=1)
    del block["b2"]

    with pytest.raises(UserError, match=r"optimizer\.b2 is missing"):
        make_optimizer(num_steps=10, **block)


def test_rates_decay_with_the_depth():
    params = {
        "body": {
            "token_embedding": jnp.ones((3, 2)),
            "embedding_norm": {"scale": jnp.ones(2)},
            "layers": {"mlp": {"kernel": jnp.ones((2, 2, 2)), "bias": jnp.ones((2, 2))}},
            "final_norm": {"scale": jnp.ones(2)},
        },
        "head": {"kernel": jnp.ones((2, 2))},
        "output_embedding": jnp.ones((3, 2)),
    }
    grads = jax.tree.map(jnp.ones_like, params)
    tx, _ = build(layer_decay=0.5, weight_decay=0.0)

    updates, _ = tx.update(grads, tx.init(params), params)

    share = jax.tree.map(lambda x: np.round(-np.asarray(x).mean(axis=-1).ravel() / 0.1, 4), updates)
    body = share["body"]
    assert body["token_embedding"].tolist() == [0.125] * 3
    assert body["embedding_norm"]["scale"].tolist() == [0.125]
    assert body["layers"]["mlp"]["kernel"].tolist() == [0.25, 0.25, 0.5, 0.5]
    assert body["layers"]["mlp"]["bias"].tolist() == [0.25, 0.5]
    assert body["final_norm"]["scale"].tolist() == share["head"]["kernel"].tolist()[:1] == [1]
    assert share["output_embedding"].tolist() == [1] * 3


def test_warmup_may_be_a_share_of_the_steps():
    block = common.optimizer("adamw", "constant", peak_lr=1.0, warmup_steps=0, warmup_share=0.3)
    _, by_share = make_optimizer(num_steps=10, **block)
    _, by_steps = make_optimizer(num_steps=10, **block | dict(warmup_steps=3, warmup_share=0.0))

    assert [float(by_share(s)) for s in range(10)] == [float(by_steps(s)) for s in range(10)]
    with pytest.raises(UserError, match="make one of them 0"):
        make_optimizer(num_steps=10, **block | dict(warmup_steps=3))


@pytest.mark.parametrize(("num_steps", "wanted"), [(5, 4), (4, 0), (3, 0)])
def test_a_run_that_is_shorter_than_its_warmup_warms_up_for_a_tenth(num_steps, wanted):
    assert schedules.warmup_of(num_steps, warmup_steps=4, warmup_share=0.0) == wanted
    assert schedules.warmup_of(10 * num_steps, warmup_steps=100, warmup_share=0.0) == num_steps
    block = common.optimizer("adamw", "cosine", peak_lr=1.0, warmup_steps=4)
    _, rate = make_optimizer(num_steps=num_steps, **block)

    assert float(rate(wanted)) == 1.0
    assert all(0 < float(rate(step)) <= 1 for step in range(num_steps))
