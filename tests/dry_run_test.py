import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import classify, quickstart
from experiments import dry_run, finetune
from lm.costs import memory
from lm.errors import UserError


@pytest.fixture
def config(corpus):
    config = quickstart.get_config("debug")
    config.data.update(corpus, source="text")
    config.tokenizer = {"kind": "bytes"}
    config.model.vocab_size = 259
    return config


def test_a_dry_run_says_what_a_config_would_take(config, capsys):
    dry_run.run(config, num_devices=1)

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
    assert "all-reduce" not in shown  # One device has no one to send to.


def test_on_4096_devices_a_dry_run_says_what_they_hold_and_send(config, capsys):
    config.data.batch_size = config.eval.batch_size = 1024
    config.model.update(num_heads=4, mlp_dim=64, vocab_size=260, model_dim=512, remat="full")
    config.parallel.update(data=-1, fsdp=512, tensor=4)

    dry_run.run(config, num_devices=4096)

    shown = " ".join(capsys.readouterr().out.split())
    V, P, N, D, H, F = 260, 64, 2, 512, 4 * 8, 64
    matrices = N * (4 * D * H + 2 * D * F)
    # Biases and norms are a thousandth of the rest, and hardly cut.
    held = 4 * (matrices / (512 * 4) + V * D / (512 * 4) + P * D / 512) + 4 * N * 7 * D
    assert re.search(rf"parameters │ {held / 1e6:.1f} │", shown)
    gathered = 2 * 2 * matrices / 4 + 4 * (V * D / 4 + P * D)  # Matrices in bfloat16, twice.
    (found,) = re.findall(r"all-gather │ fsdp │ \d+ │ ([\d.]+) │", shown)
    assert float(found) == pytest.approx(gathered / 1e6, rel=0.2)
    for kind in ("reduce-scatter", "all-reduce", "all-to-all", "collective-permute"):
        assert kind in shown
    assert re.search(r"H100 │ 0 of 80 GB │ [\d.]+ │", shown)
    assert re.search(r"TPU v5e │ 0 of 16 GB │ - │", shown)  # Sixteen pods.
    assert "estimated" in shown and "on 2 x 2 x 2 x 1 simulated devices" in shown


def test_a_number_of_devices_that_is_none_or_not_for_this_is_refused(config):
    with pytest.raises(UserError, match="--devices=0 must be at least 1"):
        dry_run.run(config, num_devices=0)
    with pytest.raises(UserError, match="--devices=8 is about pretraining"):
        dry_run.run(classify.get_config("debug"), num_devices=8)


def test_a_dry_run_needs_no_more_text_than_there_is(config, capsys):
    config.data.batch_size = 8_000_000

    dry_run.run(config, num_devices=1)

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
