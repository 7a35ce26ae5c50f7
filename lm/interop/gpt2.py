"""GPT-2's weights and hyperparameters as `transformers` names them, both ways."""

from collections.abc import Collection
from typing import Any

from lm.interop.family import HOW_TO_RUN, NO_MUP, HuggingFaceFamily, check_head_dim
from lm.interop.settings import IRRELEVANT, Table, count, head_dim, number, one_dropout, only
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


_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")


def settings(model_type: str) -> Table:
    """What config.json of a GPT-2 may say."""
    del model_type
    return {
        **{name: count() for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")},
        "n_inner": count(None, or_null=True),
        **{name: number(0.1, positive=False, below=1) for name in _DROPOUTS},
        "activation_function": only("gelu_new", "gelu_pytorch_tanh"),
        "layer_norm_epsilon": only(1e-5),
        "scale_attn_weights": only(True),
        "scale_attn_by_inverse_layer_idx": only(False),
        "add_cross_attention": only(False),
        "is_decoder": IRRELEVANT,  # It always is one.
        "is_encoder_decoder": only(False),
        "tie_word_embeddings": only(True),
        "reorder_and_upcast_attn": IRRELEVANT,  # The same numbers, in float32 what we have anyway.
        "n_ctx": IRRELEVANT,
        **dict.fromkeys(_OF_SUMMARY, IRRELEVANT),
    }


# Of a head for multiple choice.
_OF_SUMMARY = [
    f"summary_{name}"
    for name in ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")
]


def model_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """config.json -> the `model` block of ours."""
    del model_type, names
    width, heads = given["n_embd"], given["n_head"]
    return dict(
        name="gpt2",
        vocab_size=given["vocab_size"],
        max_len=given["n_positions"],
        num_layers=given["n_layer"],
        num_heads=heads,
        head_dim=head_dim(width, heads, f"n_embd={width}, n_head={heads}"),
        model_dim=width,
        mlp_dim=given["n_inner"] or 4 * width,
        **NO_MUP,
        dropout=one_dropout({name: given[name] for name in _DROPOUTS}),
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
    settings=settings,
    aliases={
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    },
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=lambda model: {"lm_head.weight": "transformer.wte.weight"},
    # Buffers of causal masks in files of old versions.
    ignored=(".attn.bias", ".attn.masked_bias"),
)
