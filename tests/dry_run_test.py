import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import classify, quickstart
from experiments import dry_run, finetune
from lm.errors import UserError
from lm.train import memory


@pytest.fixture
def config(corpus):
    config = quickstart.get_config("debug")
    config.data.update(corpus, source="text")
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


def test_of_fine_tuning_the_optimiser_holds_the_adapters_and_no_more(capsys):
    config = classify.get_config("debug,optimizer=adamw")
    config.tokenizer = {"kind": "bytes"}
    config.model.update(vocab_size=259, num_layers=1, num_heads=2, head_dim=8, model_dim=16)
    config.lora.update(rank=2, targets="attention/(query|value)/kernel")

    dry_run.run(config)

    shown = capsys.readouterr().out
    D, r, labels = 16, 2, 8
    trained = 2 * (D * r + r * D) + (D * D + D) + (D * labels + labels)
    assert re.search(rf"all +│ +│ +{trained:,} ", shown)
    state = 4 * 2 * trained + 4  # Two moments, and AdamW's count.
    assert re.search(rf"optimiser state +│ +{state / 1e6:.1f} ", shown)
    config, data = finetune.read(config)
    abstract = finetune.make_parts(config, data).abstract
    assert state <= memory.tree_bytes(abstract.opt_state) <= state + 16
    assert re.search(r"row 0: \S+\.py:\d+, gold {\"label\": \"\w+\"}", shown)
    assert "frozen: " in shown and "1 segments" in shown


def test_showing_labelled_examples_twice_shows_the_same_and_another_step_another(capsys):
    config = classify.get_config("debug")
    shown = []
    for step in (2, 2, 3):
        dry_run.show_batch(config, step)
        shown.append(capsys.readouterr().out.split("sees")[1])

    assert shown[0] == shown[1] != shown[2]
    with pytest.raises(UserError, match=r"--show_batch=121 .* 1 to 120"):
        dry_run.show_batch(config, 121)


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
    mesh = jax.make_mesh((2,), ("x",))
    spec = jax.sharding.PartitionSpec("x")
    split = jax.sharding.NamedSharding(mesh, spec)

    whole = jax.ShapeDtypeStruct((16, 3), np.float32)
    part = jax.ShapeDtypeStruct((16, 3), np.float32, sharding=split)

    assert memory.tree_bytes({"a": whole, "b": part}) == 16 * 3 * 4 + 8 * 3 * 4
