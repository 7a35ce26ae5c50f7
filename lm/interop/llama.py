"""Llama's weights and hyperparameters as `transformers` names them, both ways: Llama, Mistral,
Qwen2.
"""

from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, NO_MUP, HuggingFaceFamily, require
from lm.interop.weights import Entry, Layout, entry, in_layers


def table(model: dict[str, Any]) -> list[Entry]:
    """Their Linear keeps its weight as outputs x inputs."""
    layer = [
        entry("input_layernorm.weight", "attention_norm/scale", Layout.VECTOR),
        entry("self_attn.o_proj.weight", "attention/out/kernel", Layout.OUT_IN, 2),
        entry("post_attention_layernorm.weight", "mlp_norm/scale", Layout.VECTOR),
        entry("mlp.gate_proj.weight", "mlp/gate/kernel", Layout.OUT_IN),
        entry("mlp.up_proj.weight", "mlp/in/kernel", Layout.OUT_IN),
        entry("mlp.down_proj.weight", "mlp/out/kernel", Layout.OUT_IN),
    ]
    for theirs, ours in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")):
        layer += [entry(f"self_attn.{theirs}.weight", f"attention/{ours}/kernel", Layout.OUT_IN)]
        if model["qkv_bias"]:
            layer += [entry(f"self_attn.{theirs}.bias", f"attention/{ours}/bias", Layout.VECTOR)]
    return [
        entry("model.embed_tokens.weight", "token_embedding", Layout.TABLE),
        *in_layers("model.layers.{i}.", "layers", layer),
        entry("model.norm.weight", "final_norm/scale", Layout.VECTOR),
        *(
            []
            if model["tied_output"]
            else [entry("lm_head.weight", "output_embedding", Layout.TABLE)]
        ),
    ]


def model_block(config: dict[str, Any]) -> dict[str, Any]:
    """config.json -> the `model` block of ours. Absent keys have the defaults of transformers."""
    model_type = config["model_type"]
    require(
        config,
        hidden_act=("silu", "silu"),
        attention_bias=(False, False),
        mlp_bias=(False, False),
        attention_dropout=(0.0, 0.0),
    )
    heads = config["num_attention_heads"]
    return dict(
        name="llama",
        vocab_size=config["vocab_size"],
        max_len=config["max_position_embeddings"],
        num_layers=config["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        model_dim=config["hidden_size"],
        mlp_dim=config["intermediate_size"],
        **NO_MUP,
        **_rotary(config),
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        qkv_bias=model_type == "qwen2",
        tied_output=config.get("tie_word_embeddings", False),
        window=_window(config, model_type),
        **HOW_TO_RUN,
    )


def _rotary(config: dict[str, Any]) -> dict[str, Any]:
    """Version 5 keeps all about rotary positions in one dict, older files in two keys."""
    settings = (config.get("rope_scaling") or {}) | (config.get("rope_parameters") or {})
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(
            f"config.json: rope_type={kind!r} is not supported; only 'default' and 'llama3' are"
        )
    theta = settings.get("rope_theta", config.get("rope_theta", 10000.0))
    scaled = kind == "llama3"
    return dict(
        rope_theta=float(theta),
        rope_factor=float(settings["factor"]) if scaled else 1.0,
        rope_low_freq=float(settings["low_freq_factor"]) if scaled else 1.0,
        rope_high_freq=float(settings["high_freq_factor"]) if scaled else 4.0,
        rope_original_len=settings["original_max_position_embeddings"] if scaled else 0,
    )


def _window(config: dict[str, Any], model_type: str) -> int:
    if model_type == "llama" or (model_type == "qwen2" and not config.get("use_sliding_window")):
        return 0
    if model_type == "qwen2" and config.get("max_window_layers", 28) > 0:
        raise UserError(
            "config.json: max_window_layers is not supported: every layer has the same window"
        )
    return config.get("sliding_window", 4096) or 0


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
        vocab_size=model["vocab_size"],
        max_position_embeddings=model["max_len"],
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        num_key_value_heads=model["num_kv_heads"],
        head_dim=model["head_dim"],
        hidden_size=model["model_dim"],
        intermediate_size=model["mlp_dim"],
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
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=lambda model: (
        {"lm_head.weight": "model.embed_tokens.weight"} if model["tied_output"] else {}
    ),
    ignored=("rotary_emb.inv_freq",),
)
