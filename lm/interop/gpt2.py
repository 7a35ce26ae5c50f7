"""GPT-2's weights and hyperparameters as `transformers` names them, both ways."""

from collections.abc import Collection
from typing import Any

from lm.interop.family import HOW_TO_RUN, NO_MUP, HuggingFaceFamily, check_head_dim
from lm.interop.settings import IRRELEVANT, Table, count, head_dim, number, one_dropout, only
from lm.interop.weights import Entry, Layout, affine, entry, in_layers, norm

_SIZES = {  # By our name and theirs.
    "vocab_size": "vocab_size",
    "max_len": "n_positions",
    "model_dim": "n_embd",
    "num_layers": "n_layer",
    "num_heads": "n_head",
}
_DROPOUTS = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
_SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")


def table(model: dict[str, Any]) -> list[Entry]:
    """Lists the tensors of `GPT2LMHeadModel`."""
    conv = Layout.IN_OUT  # Their Conv1D keeps its weight as our kernels are, not as Linear does.
    heads = ["query", "key", "value"]  # Side by side: c_attn is D x 3HK.
    layer = [
        *norm("ln_1", "attention_norm"),
        entry("attn.c_attn.weight", [f"attention/{n}/kernel" for n in heads], conv),
        entry("attn.c_attn.bias", [f"attention/{n}/bias" for n in heads], Layout.VECTOR),
        *affine("attn.c_proj", "attention/out", conv, num_in_dims=2),
        *norm("ln_2", "mlp_norm"),
        *affine("mlp.c_fc", "mlp/in", conv),
        *affine("mlp.c_proj", "mlp/out", conv),
    ]
    return [
        entry("transformer.wte.weight", "token_embedding", Layout.TABLE),
        entry("transformer.wpe.weight", "position_embedding", Layout.TABLE),
        *in_layers("transformer.h.{i}.", "layers", layer),
        *norm("transformer.ln_f", "final_norm"),
    ]


def settings(model_type: str) -> Table:
    """Lists what config.json of a GPT-2 may say."""
    del model_type
    return {
        **{name: count() for name in _SIZES.values()},
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
        **{f"summary_{name}": IRRELEVANT for name in _SUMMARY},  # Of a head for multiple choice.
    }


def model_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """Turns config.json into our `model` block."""
    del model_type, names
    width, heads = given["n_embd"], given["n_head"]
    return dict(
        name="gpt2",
        **{ours: given[theirs] for ours, theirs in _SIZES.items()},
        head_dim=head_dim(width, heads, f"n_embd={width}, n_head={heads}"),
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
        **{theirs: model[ours] for ours, theirs in _SIZES.items()},
        n_inner=model["mlp_dim"],
        **dict.fromkeys(_DROPOUTS, model["dropout"]),
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
