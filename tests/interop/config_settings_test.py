"""Whatever config.json says is done as `transformers` does it, refused by name, or said to be left
out."""

import functools
import json
import math

import jax
import numpy as np
import pytest
import torch
import transformers as t
from flax.traverse_util import flatten_dict

from lm.errors import UserError
from lm.interop import hugging_face, settings
from lm.models.factory import resolved
from lm.models.families import FAMILIES, param_shapes

V = 31
_SIZES = dict(vocab_size=V, hidden_size=12, num_attention_heads=2, num_hidden_layers=2)
_BERT = _SIZES | dict(intermediate_size=20, max_position_embeddings=16)
_LLAMA = _BERT | dict(num_key_value_heads=1)
MAKERS = {
    "gpt2": lambda: t.GPT2LMHeadModel(
        t.GPT2Config(vocab_size=V, n_positions=16, n_embd=12, n_layer=2, n_head=2)
    ),
    "bert": lambda: t.BertForMaskedLM(t.BertConfig(**_BERT)),
    "roberta": lambda: t.RobertaForMaskedLM(t.RobertaConfig(**_BERT)),
    "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**_LLAMA)),
    "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**_LLAMA, sliding_window=5)),
    "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**_LLAMA)),
    "t5": lambda: t.T5ForConditionalGeneration(
        t.T5Config(vocab_size=V, d_model=12, d_kv=6, d_ff=20, num_layers=2, num_heads=2)
    ),
}
_LLAMA3 = dict(
    rope_type="llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
_ROPES = [
    {"rope_theta": 100.0, "rope_type": "default"},
    _LLAMA3 | {"rope_theta": 100.0},
    {"type": "linear", "factor": 2.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 16},
    {"rope_type": "default", "partial_rotary_factor": 0.5},
    {"full_attention": {"rope_theta": 100.0, "rope_type": "default"}},
    {"rope_type": "llama3", "factor": 2.0},
    [1],
]
_FULL, _SLIDING = "full_attention", "sliding_attention"
# What is tried of a setting besides what its type suggests.
VALUES = {
    "hidden_act": ["relu", "gelu_new", "gelu_pytorch_tanh", "silu"],
    "activation_function": ["relu", "gelu", "gelu_pytorch_tanh"],
    "dense_act_fn": ["gelu_new", "silu", "gelu"],
    "feed_forward_proj": ["gated-gelu", "gated-silu", "gelu", "gated-gelu_new"],
    "position_embedding_type": ["relative_key", "relative_key_query"],
    "rope_parameters": _ROPES,
    "rope_scaling": _ROPES,
    "rope_theta": [100.0, 0, -1.0],
    "partial_rotary_factor": [0.5, 1.0],
    "layer_types": [[_FULL] * 2, [_SLIDING] * 2, [_FULL, _SLIDING], [_FULL], ["conv"] * 2, []],
    "sliding_window": [3, 0],
    "max_window_layers": [0, 1, 2],
    "n_inner": [20, 48],
    "head_dim": [4, 5, 6],
    "tie_word_embeddings": [True, False],
    "scale_decoder_outputs": [True, False],
    "is_gated_act": [True, False],
    "return_dict": [True],  # With false, transformers' own decoder fails.
    "pruned_heads": [{"0": [1]}, {}],
    "quantization_config": [{"quant_method": "fp8"}],
    "attn_logit_softcapping": [30.0],
    "logit_scale": [0.5],
    "embedding_multiplier": [12.0],
    "num_local_experts": [8],
    "invented_setting": [1.5, True, "x"],
    "model_type": ["mamba", [], 5],
    "architectures": [["A", "B"], None, "GPT2LMHeadModel", [], [5]],
}
ALSO = {  # Settings that are tried together.
    "qwen2": [
        dict(use_sliding_window=True, sliding_window=4, max_window_layers=0),
        dict(use_sliding_window=True, sliding_window=4, max_window_layers=1),
        dict(use_sliding_window=True, sliding_window=4, max_window_layers=9),
        dict(use_sliding_window=True, sliding_window=4, layer_types=[_SLIDING] * 2),
        dict(use_sliding_window=True, sliding_window=4, layer_types=[_FULL] * 2),
        dict(use_sliding_window=True, sliding_window=4, layer_types=[_FULL, _SLIDING]),
        dict(use_sliding_window=False, sliding_window=4, max_window_layers=0),
    ],
    "mistral": [dict(sliding_window=None), dict(sliding_window=3, layer_types=[_SLIDING] * 2)],
    "llama": [
        dict(rope_parameters=None, rope_theta=100.0),
        dict(rope_parameters=None, rope_theta=100.0, rope_scaling=_LLAMA3),
        dict(rope_theta=100.0),
    ],
    "t5": [
        dict(tie_word_embeddings=False, scale_decoder_outputs=None),
        dict(tie_word_embeddings=False, scale_decoder_outputs=True),
        dict(feed_forward_proj="relu", is_gated_act=True, dense_act_fn="gelu_new"),
    ],
}


# Whose other settings are read, and computed, as those of a BERT or a Llama are.
ITS_OWN = {
    "roberta": {"pad_token_id", "max_position_embeddings", "type_vocab_size", "hidden_act"},
    "mistral": {"sliding_window", "layer_types", "num_key_value_heads", "rms_norm_eps"},
    "qwen2": {
        "use_sliding_window",
        "sliding_window",
        "max_window_layers",
        "layer_types",
        "attention_bias",
        "tie_word_embeddings",
    },
}


def cases(model_type):
    """Changes to config.json: one for each value of each setting, and `ALSO`."""
    config = json.loads(MAKERS[model_type]().config.to_json_string(use_diff=False))
    names = config.keys() | hugging_face.FAMILIES[model_type].settings(model_type) | VALUES.keys()
    if model_type != "llama":  # What all have in common is tried of one.
        names -= {n for n, s in settings.COMMON.items() if s is settings.IRRELEVANT}
    for name in sorted(names & ITS_OWN.get(model_type, names)):
        value = config.get(name)
        match value:
            case bool():
                values = [not value]
            case int():
                values = [value + 1, value * 2]
            case float():
                values = [value * 1.5 + 0.125]
            case _:
                values = []
        for each in VALUES.get(name, values):
            yield {name: each}
    yield from ALSO.get(model_type, [])


@pytest.fixture(scope="module", params=MAKERS)
def folder(request, tmp_path_factory):
    torch.manual_seed(0)
    model = MAKERS[request.param]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    return folder


TOKENS = np.random.default_rng(0).integers(5, V, (1, 11))


@functools.cache
def compiled(block):
    """A model, for all folders that ask for the same one."""
    block = dict(block) | dict(dtype="float32", attention="einsum")
    family = FAMILIES[block.pop("name")]
    model = family.module(family.config(**block))
    shapes = {p: x.shape for p, x in flatten_dict(param_shapes(model)).items()}
    positions_BL = np.arange(11)[None]
    inputs = (TOKENS, np.ones_like(TOKENS))
    inputs = inputs * 2 if family.architecture == "encoder_decoder" else (TOKENS, positions_BL)
    inputs = (*inputs, None) if len(inputs) == 2 else inputs
    apply = jax.jit(lambda params: model.apply({"params": params}, *inputs).logits())
    return shapes, apply


def ours(folder):
    """Logits, and what was said to be left out.

    Raises:
      UserError: a setting that is not supported.
    """
    block = hugging_face.load_model_block(folder)
    shapes, apply = compiled(tuple(sorted(block.items())))
    loaded = hugging_face.load_params(folder, shapes)
    return np.asarray(apply(loaded.params)), loaded.left_out


def theirs(folder):
    """Logits, or None where transformers cannot read the folder, or draws parameters at random."""
    make = t.AutoModelForMaskedLM if "bert" in folder.name else t.AutoModelForCausalLM
    make = t.AutoModelForSeq2SeqLM if "t5" in folder.name else make
    try:
        model, loading = make.from_pretrained(folder, output_loading_info=True, dtype="float32")
        if loading["missing_keys"] or loading["unexpected_keys"]:
            return None
        inputs = {"input_ids": torch.tensor(TOKENS)}
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"]
        with torch.no_grad():
            return model.eval()(**inputs, return_dict=True).logits.numpy()
    except Exception:
        return None


def test_each_setting_is_done_refused_by_name_or_said_to_be_left_out(folder):
    text = (folder / "config.json").read_text()
    base, nothing = ours(folder)
    np.testing.assert_allclose(base, theirs(folder), atol=1e-4)
    assert np.abs(base).max() > 1
    assert not nothing
    model_type = json.loads(text)["model_type"]
    done, refused, problems = [], [], []
    for change in cases(model_type):
        (folder / "config.json").write_text(json.dumps(json.loads(text) | change))
        try:
            found, left_out = ours(folder)
        except UserError as error:
            refused.append(change)
            aliases = hugging_face.FAMILIES[model_type].aliases
            named = {*change} | {aliases.get(name, name) for name in change}
            # A wrong size shows in the tensors, whose name and shapes are then given.
            if not any(name in str(error) for name in (*named, "asks for", "missing keys", "tied")):
                problems.append((change, str(error)))
            assert "\n" not in str(error)
            continue
        done.append(change)
        expected = theirs(folder)
        is_said = all(name in str(left_out) for name in change)
        if expected is None:
            if not is_said:
                problems.append((change, "transformers cannot read what was read here"))
        elif np.abs(found - expected).max() > 1e-4:
            problems.append((change, "other logits"))
        if "invented_setting" in change and not is_said:
            problems.append((change, "not said"))
    (folder / "config.json").write_text(text)
    assert not problems, "\n".join(map(str, problems))
    if model_type not in ITS_OWN:
        assert len(done) > 8
        assert len(refused) > 20
    assert refused


WRONG = [-1, 0, 10**9, 10**30, 1e30, math.inf, math.nan, "2", 2.5, None, [2], True, {}, [[[]]]]


def test_no_value_of_any_setting_ends_in_anything_but_a_line(folder):
    text = (folder / "config.json").read_text()
    config = json.loads(text)
    table = hugging_face.FAMILIES[config["model_type"]].settings(config["model_type"])
    sizes = {name for name in table if name.endswith(("_size", "n_layer", "num_hidden_layers"))}
    accepted = {}
    for name in [*table, "architectures", "id2label", "pruned_heads", "quantization_config"]:
        for value in WRONG:
            (folder / "config.json").write_text(json.dumps(config | {name: value}))
            try:
                block = hugging_face.load_model_block(folder)
                if value == 10**9 and name in sizes:  # Others change no shape.
                    hugging_face.plan(folder, compiled(tuple(sorted(block.items())))[0])
                resolved(block, True, True, 1)
                accepted.setdefault(name, []).append(value)
            except UserError as error:
                assert "\n" not in str(error)
    (folder / "config.json").write_text(text)
    assert sizes
    for name in sizes:
        assert 10**9 not in accepted.get(name, []), name
    for name, setting in table.items():
        if setting.is_used:
            assert not any(value != value for value in accepted.get(name, [])), name  # NaN.
