"""The weights and hyperparameters of Llama, Mistral and Qwen2 in `transformers`, both ways."""

from collections.abc import Collection
from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, NO_MUP, HuggingFaceFamily
from lm.interop.settings import IRRELEVANT, Table, count, flag, head_dim, number, only, some_of
from lm.interop.weights import Entry, Layout, affine, entry, in_layers

_SIZES = {  # By our name and theirs.
    "vocab_size": "vocab_size",
    "model_dim": "hidden_size",
    "mlp_dim": "intermediate_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "max_len": "max_position_embeddings",
}
# Of the frequencies that Llama 3.1 stretches, in the order of our rope_factor, rope_low_freq, ...
_OF_LLAMA3 = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


def table(model: dict[str, Any]) -> list[Entry]:
    """Lists the tensors of `LlamaForCausalLM`, or those of Mistral or Qwen2."""
    layer = [
        entry("input_layernorm.weight", "attention_norm/scale", Layout.VECTOR),
        entry("self_attn.o_proj.weight", "attention/out/kernel", Layout.OUT_IN, 2),
        entry("post_attention_layernorm.weight", "mlp_norm/scale", Layout.VECTOR),
        entry("mlp.gate_proj.weight", "mlp/gate/kernel", Layout.OUT_IN),
        entry("mlp.up_proj.weight", "mlp/in/kernel", Layout.OUT_IN),
        entry("mlp.down_proj.weight", "mlp/out/kernel", Layout.OUT_IN),
    ]
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        has_bias = model["qkv_bias"]  # In Qwen2 alone.
        layer += affine(f"self_attn.{theirs}", f"attention/{ours}", has_bias=has_bias)
    output = entry("lm_head.weight", "output_embedding", Layout.TABLE)
    return [
        entry("model.embed_tokens.weight", "token_embedding", Layout.TABLE),
        *in_layers("model.layers.{i}.", "layers", layer),
        entry("model.norm.weight", "final_norm/scale", Layout.VECTOR),
        *([] if model["tied_output"] else [output]),
    ]


def settings(model_type: str) -> Table:
    """Lists what config.json of a Llama, a Mistral or a Qwen2 may say."""
    table = {
        **{name: count() for name in _SIZES.values()},
        "num_key_value_heads": count(None, or_null=True),
        "head_dim": count(None, or_null=True),
        "rms_norm_eps": number(1e-6),
        "tie_word_embeddings": flag(False),
        "rope_theta": number(None, or_null=True),
        "rope_scaling": some_of(dict),
        "rope_parameters": some_of(dict),
        "layer_types": some_of(list),
        "partial_rotary_factor": only(1.0, None),
        "hidden_act": only("silu", "swish"),
        "attention_bias": only(False, None),
        "mlp_bias": only(False, None),
        "attention_dropout": only(0.0, None),
        "is_decoder": IRRELEVANT,  # It always is one.
        "is_encoder_decoder": only(False),
        "add_cross_attention": only(False),
        "pretraining_tp": IRRELEVANT,  # In how many pieces a product was once computed.
    }
    match model_type:
        case "mistral":
            return table | {
                "num_key_value_heads": count(8, or_null=True),
                "sliding_window": count(4096, or_null=True),
            }
        case "qwen2":
            return table | {
                "num_key_value_heads": count(32, or_null=True),
                "sliding_window": count(4096, or_null=True),
                "use_sliding_window": flag(False),
                "max_window_layers": count(28, least=0),
                "attention_bias": IRRELEVANT,  # It always has those of queries, keys and values.
            }
    return table


def model_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """Turns config.json into our `model` block."""
    del names
    heads, width = given["num_attention_heads"], given["hidden_size"]
    shape = f"hidden_size={width}, num_attention_heads={heads}"
    return dict(
        name="llama",
        **{ours: given[theirs] for ours, theirs in _SIZES.items()},
        num_kv_heads=given["num_key_value_heads"] or heads,
        head_dim=given["head_dim"] or head_dim(width, heads, shape),
        **NO_MUP,
        **_rotary(given),
        norm_epsilon=float(given["rms_norm_eps"]),
        qkv_bias=model_type == "qwen2",
        tied_output=given["tie_word_embeddings"],
        window=_window(given, model_type),
        **HOW_TO_RUN,
    )


def _rotary(given: dict[str, Any]) -> dict[str, Any]:
    """Reads what config.json says of rotary positions, in one dict or in two keys."""
    # Version 5 of transformers writes rope_parameters. Where a file has the older dict, too, it
    # takes that one, and the wavelength of either dict before that of the key.
    name = "rope_parameters" if given["rope_scaling"] is None else "rope_scaling"
    rope = {k: v for k, v in (given[name] or {}).items() if v is not None}
    if any(isinstance(value, dict) for value in rope.values()):
        raise UserError(
            f"config.json: {name}={rope!r}: other positions by kind of layer are not supported"
        )
    kind = rope.pop("rope_type", rope.pop("type", "default"))  # "type" is the older name.
    rope.pop("type", None)
    if kind not in ("default", "llama3"):
        raise UserError(
            f"config.json: rope_type={kind!r} in {name} is not supported; only 'default' and "
            "'llama3' are"
        )
    numbers = {"rope_theta": number(None, or_null=True), "partial_rotary_factor": only(1.0)}
    if kind == "llama3":
        numbers |= {key: number(1.0) for key in _OF_LLAMA3}
        if lacking := [key for key in _OF_LLAMA3 if key not in rope]:
            raise UserError(f"config.json: {name} of rope_type='llama3' lacks {lacking[0]!r}")
    for key, value in rope.items():
        if key not in numbers:
            raise UserError(
                f"config.json: {key}={value!r} in {name} of rope_type={kind!r} is not supported"
            )
        if problem := numbers[key].problem(value):
            raise UserError(f"config.json: {key}={value!r} in {name} {problem}")
    theta = rope.get("rope_theta") or given["rope_theta"] or 10000.0
    if kind == "default":
        rope = dict.fromkeys(_OF_LLAMA3, 1.0) | {"high_freq_factor": 4.0, _OF_LLAMA3[-1]: 0}
    elif not rope["high_freq_factor"] > rope["low_freq_factor"]:
        raise UserError(
            f"config.json: high_freq_factor={rope['high_freq_factor']} in {name} must exceed "
            f"low_freq_factor={rope['low_freq_factor']}"
        )
    factor, low, high, original_len = (rope[key] for key in _OF_LLAMA3)
    return dict(
        rope_theta=float(theta),
        rope_factor=float(factor),
        rope_low_freq=float(low),
        rope_high_freq=float(high),
        rope_original_len=int(original_len),
    )


def _window(given: dict[str, Any], model_type: str) -> int:
    """Finds the window that all layers have; 0 for none."""
    num_layers, window = given["num_hidden_layers"], given.get("sliding_window") or 0
    if not given.get("use_sliding_window", True):
        window = 0
    first = given.get("max_window_layers", 0) if window else num_layers  # That has the window.
    kinds = {"full_attention"} if first > 0 else set()
    kinds |= {"sliding_attention"} if first < num_layers else set()
    cause = f"max_window_layers={first}"
    if given["layer_types"] is not None:
        cause = f"layer_types={given['layer_types']!r}"[:100]
        if len(given["layer_types"]) != num_layers:
            raise UserError(
                f"config.json: {cause} names {len(given['layer_types'])} layers of "
                f"num_hidden_layers={num_layers}"
            )
        kinds = {str(kind) for kind in given["layer_types"]}
    # A Mistral goes by its window alone.
    if kinds == {"full_attention"} and not (model_type == "mistral" and window):
        return 0
    if kinds == {"sliding_attention"} and window:
        return window
    raise UserError(
        f"config.json: {cause} with sliding_window={given.get('sliding_window')} is not "
        "supported: every layer has the same window here, or none has"
    )


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`: biases make it a Qwen2, else a window a Mistral, else a Llama."""
    rotary: dict[str, Any] = {"rope_theta": model["rope_theta"], "rope_type": "default"}
    if model["rope_factor"] != 1:
        rotary |= {
            "rope_type": "llama3",
            "factor": model["rope_factor"],
            "low_freq_factor": model["rope_low_freq"],
            "high_freq_factor": model["rope_high_freq"],
            "original_max_position_embeddings": model["rope_original_len"],
        }
    config = dict(
        **{theirs: model[ours] for ours, theirs in _SIZES.items()},
        num_key_value_heads=model["num_kv_heads"],
        head_dim=model["head_dim"],
        rms_norm_eps=model["norm_epsilon"],
        rope_parameters=rotary,
        rope_theta=model["rope_theta"],  # For readers older than version 5.
        tie_word_embeddings=model["tied_output"],
        hidden_act="silu",
    )
    if model["rope_factor"] != 1:
        config["rope_scaling"] = {k: v for k, v in rotary.items() if k != "rope_theta"}
    if model["qkv_bias"]:
        window = dict(use_sliding_window=bool(model["window"]), max_window_layers=0)
        window |= dict(sliding_window=model["window"]) if model["window"] else {}
        return config | window | dict(architectures=["Qwen2ForCausalLM"], model_type="qwen2")
    if model["window"]:
        return config | dict(
            architectures=["MistralForCausalLM"],
            model_type="mistral",
            sliding_window=model["window"],
        )
    return config | dict(architectures=["LlamaForCausalLM"], model_type="llama")


FAMILY = HuggingFaceFamily(
    model_types=("llama", "mistral", "qwen2"),
    prefix="model.",
    settings=settings,
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=lambda model: (
        {"lm_head.weight": "model.embed_tokens.weight"} if model["tied_output"] else {}
    ),
    ignored=("rotary_emb.inv_freq",),
)
