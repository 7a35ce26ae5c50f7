import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import quickstart
from experiments import dry_run
from lm.errors import UserError
from lm.train import memory


@pytest.fixture
def config():
    config = quickstart.get_config("debug")
    config.data.update(source="text", train="lm/**/*.py", validation="experiments/*.py")
    config.tokenizer = {"kind": "bytes"}
    config.model.vocab_size = 259
    return config


def test_a_dry_run_says_what_a_config_would_take(config, capsys):
    dry_run.run(config)

    shown = capsys.readouterr().out
    V, P, N, D, F = 259, 64, 2, 16, 64
    block = 4 * (D * D + D) + 2 * D * F + F + D + 4 * D
    total = V * D + P * D + N * block + 2 * D
    assert re.search(rf"all +│ +│ +{total:,} ", shown)
    flops = 6 * total + 12 * N * D * 64
    assert f"{flops:.4g} training FLOPs a token" in shown
    for part in ("parameters", "optimiser state", "gradients", "activations"):
        assert re.search(rf"{part} +│ +[\d.,]+ ", shown), part
    assert "step 1 sees rows" in shown


def test_a_dry_run_needs_no_more_text_than_there_is(config, capsys):
    config.data.batch_size = 8_000_000

    dry_run.run(config)

    shown = capsys.readouterr().out
    assert "fewer than a batch" in shown and "step 1 sees rows" in shown


def test_showing_a_batch_twice_shows_the_same_and_another_step_another(config, capsys):
    shown = []
    for step in (2, 2, 3):
        dry_run.show_batch(config, step)
        shown.append(capsys.readouterr().out)

    assert shown[0] == shown[1] != shown[2]
    with pytest.raises(UserError, match=r"--show_batch=5 .* 1 to 4"):
        dry_run.show_batch(config, 5)


def test_saved_activations_are_the_residuals_of_the_backward_pass():
    weights = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    batch = jax.ShapeDtypeStruct((4, 8), jnp.float32)

    def loss(weights, batch):
        return jnp.sum(jnp.sin(batch @ weights))

    # Only cos(batch @ weights) is kept: the product needs its two inputs, which are there anyway.
    assert memory.saved_activation_bytes(loss, weights, batch) == 4 * 8 * 4
    kept = jax.checkpoint(loss, policy=jax.checkpoint_policies.nothing_saveable)
    assert memory.saved_activation_bytes(kept, weights, batch) == 0


def test_bytes_a_device_holds_follow_the_sharding():
    mesh = jax.make_mesh((8,), ("x",))
    spec = jax.sharding.PartitionSpec("x")
    split = jax.sharding.NamedSharding(mesh, spec)

    whole = jax.ShapeDtypeStruct((16, 3), np.float32)
    part = jax.ShapeDtypeStruct((16, 3), np.float32, sharding=split)

    assert memory.tree_bytes({"a": whole, "b": part}) == 16 * 3 * 4 + 2 * 3 * 4
