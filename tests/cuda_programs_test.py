"""What whole training steps are lowered to for an NVIDIA GPU, seen from a CPU."""

import collections
import math
import re

import jax
import pytest
from flax.traverse_util import flatten_dict

from benchmarks import predictions, train_cases
from experiments.estimates.memory import pretraining_bytes
from experiments.wiring import pretraining
from lm.objectives.causal import causal

B, L, H, D, V, HEAD = 4, 48, 2, 32, 512, 16
SIZES = dict(num_heads=H, model_dim=D, vocab_size=V, seq_len=L, batch_size=B)


def config_of(case, num_layers, **model):
    sizes = SIZES | dict(num_layers=num_layers) | (dict(num_kv_heads=1) if case == "llama" else {})
    config = train_cases.config_of(case, dict.fromkeys(train_cases.SIZES) | sizes, "default")
    config.model.update(model)
    return config


def lowered(config):
    """The StableHLO of a whole step."""
    with predictions.as_if_on_gpu():
        traced = train_cases.make_program(config, num_documents=2).trace()
        return traced.lower(lowering_platforms=("cuda",)).as_text()


def squares(program):
    """Shapes and types of all arrays that have a number for each query and key."""
    types = set(re.findall(r"tensor<((?:\d+x)+)(\w+)>", program))
    shapes = [(tuple(map(int, dims.split("x")[:-1])), dtype) for dims, dtype in types]
    return [(shape, dtype) for shape, dtype in shapes if shape.count(L) >= 2]


@pytest.mark.parametrize(
    ("case", "model", "kernel"),
    [
        ("gpt2", {}, "__cudnn$fmhaScaleBiasSoftmax"),  # Of packed rows: "bias" parts documents.
        ("llama", {}, "__cudnn$fmhaScaleBiasSoftmax"),
        ("bert", {"dropout": 0.0}, "__cudnn$fmhaScaleBiasSoftmax"),  # Texts share rows.
    ],
)
def test_attention_is_cudnns_in_both_passes_and_scores_are_no_array(case, model, kernel):
    program = lowered(config_of(case, num_layers=2, **model))

    calls = collections.Counter(re.findall(r"custom_call @(__cudnn[\w$]+)", program))
    assert calls.keys() == {kernel, f"{kernel}Backward"}
    found = squares(program)
    # A row's mask, of one head, and as a number in 16 bits.
    assert all(math.prod(shape) <= B * L * L for shape, _ in found)
    assert not [dtype for _, dtype in found if dtype in ("f32", "f64")]
    assert found


def test_with_dropout_scores_are_arrays():
    program = lowered(config_of("bert", num_layers=1, dropout=0.1))

    assert "__cudnn" not in program
    assert ((B, H, L, L), "f32") in squares(program)


# For each token of a layer, first in 16 bits: what both norms read; what products read, counted for
# each of them; q, k, v and o as the kernel has them; what the activation reads. Then in float32 the
# deviation of each norm and, if it has one, its mean; the kernel's sum for each head.
KEPT = {
    "gpt2": lambda F: (2 * D + (3 * D + D + D + F) + 4 * D + F, 2 * 2 + H),
    "llama": lambda F: (2 * D + (3 * D + D + 2 * D + F) + 2 * D + 2 * HEAD + 2 * F, 2 * 1 + H),
}


@pytest.mark.parametrize("case", KEPT)
def test_a_layer_keeps_what_its_parts_read_and_nothing_else(case):
    kept = []
    for num_layers in (2, 3):
        config = config_of(case, num_layers)
        with predictions.as_if_on_gpu():
            parts = pretraining.make_parts(config, devices=jax.devices()[:1])
            abstract = pretraining.abstract_state(parts)
            held = pretraining_bytes(config, parts, causal, abstract)
        kept.append(held["activations"])

    in_16_bits, in_32_bits = KEPT[case](config.model.mlp_dim)
    flat = flatten_dict(abstract.params["layers"])
    weights = sum(math.prod(x.shape[1:]) for path, x in flat.items() if path[-1] == "kernel")
    # Besides, matrices in the type to compute in.
    assert kept[1] - kept[0] == B * L * (2 * in_16_bits + 4 * in_32_bits) + 2 * weights
