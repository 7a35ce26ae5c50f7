"""Whether a twin tells what a larger mesh sends."""

import json
import math
import os
import subprocess
import sys

import jax
import pytest

from configs import families
from experiments.estimates import communication
from experiments.wiring.variants import for_mesh, small_sizes
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.models.parameters import num_params

SIZES = dict(data=2, fsdp=4, tensor=4, sequence=1)


def make_config(family, sizes, **model):
    """A tiny model whose rows, as activations, far outweigh its parameters."""
    config = families.get_config(f"family={family},optimizer=adamw")
    config.model.update(num_layers=2, num_heads=4, head_dim=8, model_dim=32, mlp_dim=64)
    config.model.update(vocab_size=512, remat="full", dtype="float32")
    config.model.update(model)
    config.data.update(seq_len=128, batch_size=16)
    config.train.update(num_steps=100, num_epochs=0.0, accumulate_steps=2)
    config.eval.update(batch_size=16, sample_tokens=0)
    config.parallel.update(dict(data=1, fsdp=1, tensor=1, sequence=1) | sizes)
    return config


def payloads(collectives, floor=0.0):
    return {k: t.payload_bytes for k, t in collectives.items() if t.payload_bytes >= floor}


def compiled_in_full(config, sizes):
    """What `config` itself sends on simulated devices, as many as it asks for."""
    number = str(math.prod(sizes.values()))
    done = subprocess.run(
        [sys.executable, "-m", "experiments.estimates.communication"],
        input=config.to_json(),
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": number},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    return {(kind, tuple(axes)): traffic[1] for kind, axes, traffic in found}


def test_a_twin_of_8_devices_tells_what_32_send_and_so_does_counting_by_hand():
    config = make_config("gpt2", SIZES)

    estimated = payloads(communication.collectives(config, SIZES), floor=1000)

    direct = compiled_in_full(config, SIZES)
    assert estimated.keys() == {key for key, num_bytes in direct.items() if num_bytes >= 1000}
    for key, num_bytes in estimated.items():
        assert num_bytes == pytest.approx(direct[key], rel=0.02), key

    # By hand, in bytes a device: float32, each of A micro-batches, a quarter of heads and columns.
    N, D, F, V, P, A, rows = 2, 32, 64, 512, 128, 2, 16 * 128 // (2 * 4)
    matrices, tables = 4 * N * (4 * D * D + 2 * D * F) // 4, 4 * (V * D // 4 + P * D)
    gathered = estimated["all-gather", ("fsdp",)]
    assert gathered == pytest.approx(2 * A * matrices + tables, rel=0.1)  # Two passes.
    assert estimated["reduce-scatter", ("fsdp",)] == pytest.approx(A * matrices, rel=0.1)
    assert estimated["all-reduce", ("data",)] == pytest.approx(A * matrices / 4, rel=0.1)
    # Twice a layer forward, backward, and in part again for the backward pass, where the compiler
    # for CPUs reduces the gradients of q, k and v one by one; and once at either end.
    times = estimated["all-reduce", ("tensor",)] / (4 * rows * D)
    assert 4 * N + 2 <= times <= 8 * N + 2


def test_what_is_sent_is_linear_in_the_layers():
    sizes = dict(fsdp=2)
    config = make_config("gpt2", sizes, num_layers=4, remat="none")
    config.train.accumulate_steps = 1

    def of_layers(num_layers):
        config.model.num_layers = num_layers
        return communication.compiled(config, jax.devices())

    extended = communication.of_all_layers(4, of_layers)

    assert payloads(extended) == pytest.approx(payloads(of_layers(4)))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_under_fsdp_parameters_travel_and_rows_stay(family):
    config = make_config(family, dict(fsdp=2), num_layers=1)
    parameters = 4 * num_params(param_shapes(make_model(config.model, causal=family == "llama")))

    found = payloads(communication.compiled(config, jax.devices()), floor=1000)

    assert {kind for kind, _ in found} == {"all-gather", "reduce-scatter", "all-reduce"}
    assert found["all-gather", ("fsdp",)] <= 2 * 2 * parameters  # Two micro-batches, two passes.


def test_a_device_of_the_twin_has_as_much_as_one_of_the_mesh():
    config = make_config("llama", dict(SIZES), num_heads=8, num_kv_heads=4)
    config.data.batch_size = 64

    small = small_sizes(SIZES | dict(sequence=4))
    half = for_mesh(config, SIZES, dict(small, sequence=1))

    assert small == dict(data=2, fsdp=2, tensor=2, sequence=4)
    m = half.model
    assert (m.num_heads, m.num_kv_heads, m.mlp_dim, m.vocab_size) == (4, 2, 32, 256)
    assert (m.model_dim, m.num_layers, half.data.batch_size) == (32, 2, 32)
    assert small_sizes(dict(data=9, fsdp=35, tensor=1, sequence=1))["fsdp"] == 5
