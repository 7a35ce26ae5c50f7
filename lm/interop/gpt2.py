"""GPT-2's weights and hyperparameters as `transformers` names them, both ways."""

from typing import Any

from lm.interop.family import (
    HOW_TO_RUN,
    NO_MUP,
    HuggingFaceFamily,
    check_head_dim,
    one_dropout,
    require,
)
from lm.interop.weights import Entry, Layout, entry, in_layers


def table(model: dict[str, Any]) -> list[Entry]:
    """Their Conv1D keeps its weight as inputs x outputs, as our kernels are."""
    heads = ["query", "key", "value"]
    layer = [
        entry("ln_1.weight", "attention_norm/scale", Layout.VECTOR),
        entry("ln_1.bias", "attention_norm/bias", Layout.VECTOR),
        entry("attn.c_attn.weight", [f"attention/{n}/kernel" for n in heads], Layout.IN_OUT),
        entry("attn.c_attn.bias", [f"attention/{n}/bias" for n in heads], Layout.VECTOR),
        entry("attn.c_proj.weight", "attention/out/kernel", Layout.IN_OUT, 2),
        entry("attn.c_proj.bias", "attention/out/bias", Layout.VECTOR),
        entry("ln_2.weight", "mlp_norm/scale", Layout.VECTOR),
        entry("ln_2.bias", "mlp_norm/bias", Layout.VECTOR),
        entry("mlp.c_fc.weight", "mlp/in/kernel", Layout.IN_OUT),
        entry("mlp.c_fc.bias", "mlp/in/bias", Layout.VECTOR),
        entry("mlp.c_proj.weight", "mlp/out/kernel", Layout.IN_OUT),
        entry("mlp.c_proj.bias", "mlp/out/bias", Layout.VECTOR),
    ]
    return [
        entry("transformer.wte.weight", "token_embedding", Layout.TABLE),
        entry("transformer.wpe.weight", "position_embedding", Layout.TABLE),
        *in_layers("transformer.h.{i}.", "layers", layer),
        entry("transformer.ln_f.weight", "final_norm/scale", Layout.VECTOR),
        entry("transformer.ln_f.bias", "final_norm/bias", Layout.VECTOR),
    ]


def model_block(config: dict[str, Any]) -> dict[str, Any]:
    """config.json -> the `model` block of ours. Absent keys have the defaults of transformers."""
    require(
        config,
        activation_function=("gelu_new", "gelu_new"),
        layer_norm_epsilon=(1e-5, 1e-5),
        scale_attn_weights=(True, True),
        scale_attn_by_inverse_layer_idx=(False, False),
        add_cross_attention=(False, False),
        tie_word_embeddings=(True, True),
    )
    width, heads = config["n_embd"], config["n_head"]
    return dict(
        name="gpt2",
        vocab_size=config["vocab_size"],
        max_len=config["n_positions"],
        num_layers=config["n_layer"],
        num_heads=heads,
        head_dim=width // heads,
        model_dim=width,
        mlp_dim=config.get("n_inner") or 4 * width,
        **NO_MUP,
        dropout=one_dropout(config, resid_pdrop=0.1, embd_pdrop=0.1, attn_pdrop=0.1),
        **HOW_TO_RUN,
    )


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`."""
    check_head_dim(model)
    return dict(
        architectures=["GPT2LMHeadModel"],
        model_type="gpt2",
        activation_function="gelu_new",
        layer_norm_epsilon=1e-5,
        vocab_size=model["vocab_size"],
        n_positions=model["max_len"],
        n_layer=model["num_layers"],
        n_head=model["num_heads"],
        n_embd=model["model_dim"],
        n_inner=model["mlp_dim"],
        resid_pdrop=model["dropout"],
        embd_pdrop=model["dropout"],
        attn_pdrop=model["dropout"],
        tie_word_embeddings=True,
    )


FAMILY = HuggingFaceFamily(
    model_types=("gpt2",),
    prefix="transformer.",
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=lambda model: {"lm_head.weight": "transformer.wte.weight"},
    # Buffers of causal masks in files of old versions.
    ignored=(".attn.bias", ".attn.masked_bias"),
)
