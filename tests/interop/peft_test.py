"""Adapters beside `peft`: the same logits, the same files."""

import copy
import dataclasses
import functools
import json
import math
import re

import jax
import numpy as np
import peft
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.interop import hugging_face
from lm.interop.peft import load_adapters, save_adapters
from lm.models.lora import LoraConfig, adapter_shapes, by_kernel, merge
from tests.interop.parity_test import MAKERS, load, ours, theirs, tokens

TARGETS = {
    "gpt2": ["c_attn", "attn.c_proj", "c_fc"],
    "bert": ["query", "attention.output.dense", "intermediate.dense", "pooler.dense"],
    "roberta": ["value", "lm_head.dense"],
    "llama": ["q_proj", "v_proj", "o_proj", "down_proj"],
    "mistral": ["k_proj"],
    "qwen2": ["k_proj", "gate_proj"],
    "t5": ["q", "o", "wi"],
}
KINDS = {"LoRA": {}, "rsLoRA": dict(use_rslora=True), "DoRA": dict(use_dora=True)}
CASES = [(name, kind) for name in ("gpt2", "bert", "llama", "t5") for kind in KINDS]
CASES += [(name, "LoRA") for name in ("roberta", "mistral", "qwen2")]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The name of a family -> its model of transformers, and ours with its weights."""
    made = {}

    def make(name):
        if name not in made:
            torch.manual_seed(0)
            reference = MAKERS[name]().eval()
            with torch.no_grad():
                for parameter in reference.parameters():
                    parameter.add_(0.15 * torch.randn_like(parameter))
            folder = tmp_path_factory.mktemp(name)
            reference.save_pretrained(folder)
            made[name] = reference, hugging_face.load_model_block(folder), *load(folder)
        return made[name]

    return make


def shapes_of(params):
    return {path: x.shape for path, x in flatten_dict(params).items()}


def write_adapters(folder, reference, name, **settings):
    """What `peft` writes for random adapters, and its model."""
    torch.manual_seed(1)
    targets = dict(target_modules=TARGETS[name], fan_in_fan_out=name == "gpt2")
    config = peft.LoraConfig(**dict(r=3, lora_alpha=7) | targets | settings)
    adapted = peft.get_peft_model(copy.deepcopy(reference), config).eval()
    with torch.no_grad():
        for key, parameter in adapted.named_parameters():
            if "lora_" in key:
                parameter.add_(0.2 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return adapted


def merged(params, adapters, config):
    return jax.jit(functools.partial(merge, config=config))(params, adapters)


def logits_of_theirs(model):
    return theirs(model, tokens(2, 9), np.ones((2, 9), int), tokens(2, 5, seed=1))


def logits_of_ours(model, params):
    return ours(model, params, tokens(2, 9), np.ones((2, 9), int), tokens(2, 5, seed=1))


def load_by_peft(folder, reference, recwarn):
    """`peft` warns of keys that are missing and of a wrong fan_in_fan_out."""
    recwarn.clear()
    adapted = peft.PeftModel.from_pretrained(copy.deepcopy(reference), folder).eval()
    assert not [w for w in recwarn if "Future" not in w.category.__name__]
    stored = safetensors.numpy.load_file(folder / WEIGHTS).keys()
    assert peft.get_peft_model_state_dict(adapted).keys() == stored
    return adapted


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_adapters_of_peft_give_its_logits_and_go_back_to_the_bit(
    name, kind, base, tmp_path, recwarn
):
    reference, block, model, params = base(name)
    adapted = write_adapters(tmp_path, reference, name, **KINDS[kind])
    expected = logits_of_theirs(adapted)

    config, adapters = load_adapters(tmp_path, block, shapes_of(params))
    found = logits_of_ours(model, merged(params, adapters, config))
    again = tmp_path / "again"
    again.mkdir()
    save_adapters(again, block, config, adapters, params)

    assert np.abs(expected - logits_of_theirs(reference)).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)
    before, after = (safetensors.numpy.load_file(f / WEIGHTS) for f in (tmp_path, again))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        np.testing.assert_array_equal(tensor, after[key], key)
    loaded = load_by_peft(again, reference, recwarn)
    np.testing.assert_array_equal(logits_of_theirs(loaded), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_own_adapters_of_query_and_value_become_one_of_c_attn(
    kind, base, tmp_path, random_like, recwarn
):
    reference, block, model, params = base("gpt2")
    targets = "(attention/(query|value)|mlp/in)/kernel"
    dora, stable = kind == "DoRA", kind == "rsLoRA"
    config = LoraConfig(rank=2, alpha=5, targets=targets, rank_stabilized=stable, dora=dora)
    adapters = random_like(adapter_shapes(params, config))

    save_adapters(tmp_path, block, config, adapters, params)
    config_again, adapters_again = load_adapters(tmp_path, block, shapes_of(params))

    own = merged(params, adapters, config)
    found = logits_of_theirs(load_by_peft(tmp_path, reference, recwarn))
    np.testing.assert_allclose(found, logits_of_ours(model, own), atol=1e-4)
    assert config_again.rank == 4  # One block for the query, one for the value.
    assert config_again.scale == pytest.approx(config.scale)
    again = merged(params, adapters_again, config_again)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), again, own)


def test_gradients_of_dora_are_those_of_peft(base, tmp_path):
    reference, block, model, params = base("llama")
    adapted = write_adapters(tmp_path, reference, "llama", use_dora=True)
    config, adapters = load_adapters(tmp_path, block, shapes_of(params))

    adapted(input_ids=torch.tensor(tokens(2, 9))).logits.square().sum().backward()

    @jax.jit
    @jax.grad
    def gradient(adapters):
        positions_BL = np.broadcast_to(np.arange(9), (2, 9))
        own = merge(params, adapters, config)
        logits_BLV = model.apply({"params": own}, tokens(2, 9), positions_BL, None).logits()
        return (logits_BLV**2).sum()

    # Gradients have the layout of what they are of.
    save_adapters(tmp_path, block, config, jax.device_get(gradient(adapters)), params)
    expected = {
        name.replace("vector.default.weight", "vector").replace(".default", ""): parameter.grad
        for name, parameter in adapted.named_parameters()
    }
    for key, found in safetensors.numpy.load_file(tmp_path / WEIGHTS).items():
        grad = expected[key].numpy()
        np.testing.assert_allclose(found, grad, atol=1e-4 * np.abs(grad).max(), err_msg=key)


def test_names_of_a_bare_model_are_understood(base, tmp_path):
    reference, block, _, params = base("gpt2")
    write_adapters(tmp_path, reference, "gpt2")
    expected = load_adapters(tmp_path, block, shapes_of(params))

    edit_tensors(tmp_path, lambda name, x: (name.replace(".transformer.", "."), x))

    found = load_adapters(tmp_path, block, shapes_of(params))
    assert found[0] == expected[0]
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_the_imported_pattern_matches_what_was_adapted_and_nothing_else(base, tmp_path):
    reference, block, _, params = base("t5")
    write_adapters(tmp_path, reference, "t5", target_modules=r"encoder.*SelfAttention\.q")

    config, adapters = load_adapters(tmp_path, block, shapes_of(params))

    assert list(by_kernel(adapters)) == [("encoder", "layers", "attention", "query", "kernel")]
    shapes = jax.tree.map(lambda x: x.shape, adapter_shapes(params, config))
    assert shapes == jax.tree.map(np.shape, adapters)
    assert dataclasses.replace(config, targets="") == LoraConfig(
        rank=3, alpha=7, targets="", rank_stabilized=False, dora=False
    )


def edit_tensors(folder, change):
    """Renames and replaces tensors; a name of None takes one out."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    changed = dict(change(name, x) for name, x in tensors.items())
    changed.pop(None, None)
    safetensors.numpy.save_file(changed, folder / WEIGHTS)


def with_settings(**changes):
    def spoil(folder):
        settings = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps(settings))

    return spoil


def with_tensors(change):
    return lambda folder: edit_tensors(folder, change)


def name_twice(folder):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    tensors[A0.replace("model.model.layers", "model.layers")] = tensors[A0]
    safetensors.numpy.save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def with_values(value, dtype=None):
    return with_tensors(lambda name, x: (name, np.full_like(x, value, dtype) if name == A0 else x))


def with_config(text):
    return lambda folder: (folder / CONFIG).write_bytes(text)


A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
BAD = {
    "another method": (with_settings(peft_type="IA3"), "peft_type='IA3' is not supported"),
    "biases": (with_settings(bias="all"), "bias='all' is not supported; only 'none' is"),
    "ranks": (with_settings(rank_pattern={"q": 4}), "rank_pattern={'q': 4} is not supported"),
    "alphas": (with_settings(alpha_pattern={"q": 4}), "alpha_pattern={'q': 4} is not supported"),
    "modules": (with_settings(modules_to_save=["x"]), r"modules_to_save=\['x'\] is not supported"),
    "another start": (with_settings(init_lora_weights="pissa"), "init_lora_weights='pissa' is not"),
    "what is not known": (with_settings(use_new=1), "use_new=1 is not supported; merge"),
    "another rank": (
        with_settings(r=4),
        re.escape(
            "lora_A.weight has shape (3, 24), and the model and adapter_config.json ask for "
        ),
    ),
    "DoRA that is not there": (with_settings(use_dora=True), "missing keys: .*lora_magnitude_vec"),
    "a layer without adapter": (
        with_tensors(lambda name, x: (None if name == A0 else name, x)),
        f"missing keys: {re.escape(A0)}; unknown keys: none",
    ),
    "an unknown module": (
        with_tensors(lambda name, x: (name.replace("v_proj", "z_proj"), x)),
        r"missing keys: none; unknown keys: \S*z_proj\S*, ",
    ),
    "an embedding": (
        with_tensors(lambda name, x: (name.replace("lora_A.weight", "lora_embedding_A"), x)),
        "unknown keys: .*lora_embedding_A",
    ),
    "two names of one parameter": (name_twice, f"{re.escape(A0)} are two names of one parameter"),
    "damage": (
        lambda folder: (folder / WEIGHTS).write_bytes(b"12345678" * 9),
        "adapter_model.safetensors is damaged",
    ),
    "no settings": (lambda folder: (folder / CONFIG).unlink(), "holds no adapter_config.json"),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), "adapter_config.json is no JSON"),
    "UTF-16": (with_config("{}".encode("utf-16")), "adapter_config.json is no JSON"),
    "deep JSON": (with_config(b"[" * 100_000), "adapter_config.json is no JSON"),
    "a link to nothing": (
        lambda folder: [(folder / CONFIG).unlink(), (folder / CONFIG).symlink_to("/nowhere/x")],
        "adapter_config.json is a link to nothing",
    ),
    "no weights": (
        lambda folder: (folder / WEIGHTS).unlink(),
        "holds no adapter_model.safetensors",
    ),
}


BAD |= {
    f"{text} as JSON": (with_config(text.encode()), "adapter_config.json holds no object")
    for text in ("[]", "null", '"x"', "5")
}
BAD |= {
    f"{key}={value!r:.20}": (with_settings(**{key: value}), f"adapter_config.json: {key}=.* is not")
    for key, values in {
        "r": ("x", None, 1.5, 2**70, 0, -1, True, []),
        "lora_alpha": ("x", None, [], math.nan, math.inf, -math.inf, 0, True, 1e39, 10**400),
        "use_rslora": ("no", 1, None),
        "use_dora": ("no", 1, None),
    }.items()
    for value in values
}
BAD["a rank for which no memory is there"] = with_settings(r=2**31 - 1), "has shape .* ask for"
BAD |= {
    f"tensors of {value}": (with_values(value), "lora_A.weight holds numbers that are not finite")
    for value in (math.nan, math.inf)
}
BAD |= {
    f"tensors of {dtype}": (with_values(1, dtype), "lora_A.weight has dtype")
    for dtype in ("int32", "uint8", "bool", "float64")
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_is_named_in_one_line(name, base, tmp_path):
    spoil, message = BAD[name]
    reference, block, _, params = base("llama")
    write_adapters(tmp_path, reference, "llama")
    spoil(tmp_path)

    with pytest.raises(UserError, match=message) as error:
        load_adapters(tmp_path, block, shapes_of(params))

    assert "\n" not in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_the_command_that_converts_pickled_adapters_works(base, tmp_path):
    reference, block, _, params = base("llama")
    write_adapters(tmp_path, reference, "llama")
    expected = load_adapters(tmp_path, block, shapes_of(params))[1]
    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    torch.save(tensors, tmp_path / "adapter_model.bin")
    (tmp_path / WEIGHTS).unlink()

    with pytest.raises(UserError, match="is pickled, and that is never read") as error:
        load_adapters(tmp_path, block, shapes_of(params))
    exec(str(error.value).split('"')[1], {})

    found = load_adapters(tmp_path, block, shapes_of(params))[1]
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_a_kernel_that_transformers_does_not_have_is_named(base, tmp_path):
    _, block, _, params = base("llama")
    params = params | {"head": {"kernel": np.zeros((24, 3), np.float32)}}
    config = LoraConfig(rank=1, alpha=1, targets="head", rank_stabilized=False, dora=False)
    adapters = unflatten_dict(
        {("head", "kernel", "a"): np.zeros((24, 1)), ("head", "kernel", "b"): np.zeros((1, 3))}
    )

    with pytest.raises(UserError, match="head/kernel has an adapter, and transformers' llama"):
        save_adapters(tmp_path, block, config, adapters, params)
