"""T5's weights and hyperparameters as `transformers` names them, both ways."""

from collections.abc import Collection
from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, HuggingFaceFamily
from lm.interop.settings import IRRELEVANT, Table, count, number, only, some_of
from lm.interop.weights import Entry, Layout, entry, in_layers

_RELU, _GATED = "relu", "gated-gelu"
_SIZES = {  # By our name and theirs.
    "vocab_size": "vocab_size",
    "model_dim": "d_model",
    "head_dim": "d_kv",
    "mlp_dim": "d_ff",
    "num_layers": "num_layers",
    "num_heads": "num_heads",
}


def table(model: dict[str, Any]) -> list[Entry]:
    """Lists the tensors of `T5ForConditionalGeneration`."""
    output = entry("lm_head.weight", "output_embedding", Layout.TABLE)
    return [
        entry("shared.weight", "token_embedding", Layout.TABLE),
        *_stack("encoder", model["gated"], cross=False),
        *_stack("decoder", model["gated"], cross=True),
        *([] if model["tied_output"] else [output]),
    ]


def _stack(name: str, gated: bool, *, cross: bool) -> list[Entry]:
    mlp = f"layer.{2 if cross else 1}."  # Sublayers are counted: attention once, or twice.
    layer = _attention("layer.0.", "SelfAttention", "attention")
    if cross:
        layer += _attention("layer.1.", "EncDecAttention", "cross_attention", "cross_norm")
    into = {"wi_0": "gate", "wi_1": "in"} if gated else {"wi": "in"}
    for theirs, ours in (into | {"wo": "out"}).items():
        layer.append(
            entry(f"{mlp}DenseReluDense.{theirs}.weight", f"mlp/{ours}/kernel", Layout.OUT_IN)
        )
    layer.append(entry(f"{mlp}layer_norm.weight", "mlp_norm/scale", Layout.VECTOR))
    # The relative positions that all layers of a stack share stand in its first one.
    shared = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    return [
        entry(shared, f"{name}/relative_bias", Layout.TABLE),
        *in_layers(f"{name}.block." + "{i}.", f"{name}/layers", layer),
        entry(f"{name}.final_layer_norm.weight", f"{name}/final_norm/scale", Layout.VECTOR),
    ]


def _attention(place: str, theirs: str, ours: str, norm: str = "attention_norm") -> list[Entry]:
    names = {"q": "query", "k": "key", "v": "value"}
    return [
        *(
            entry(f"{place}{theirs}.{t}.weight", f"{ours}/{o}/kernel", Layout.OUT_IN)
            for t, o in names.items()
        ),
        entry(f"{place}{theirs}.o.weight", f"{ours}/out/kernel", Layout.OUT_IN, 2),
        entry(f"{place}layer_norm.weight", f"{norm}/scale", Layout.VECTOR),
    ]


def settings(model_type: str) -> Table:
    """Lists what config.json of a T5 may say."""
    del model_type
    return {
        **{name: count() for name in _SIZES.values()},
        "num_decoder_layers": count(None, or_null=True),
        "relative_attention_num_buckets": count(32),
        "relative_attention_max_distance": count(128),
        "dropout_rate": number(0.1, positive=False, below=1),
        "feed_forward_proj": some_of(str),
        "is_gated_act": some_of(bool),
        "dense_act_fn": some_of(str),
        "tie_word_embeddings": some_of(bool),
        "scale_decoder_outputs": some_of(bool),
        "layer_norm_epsilon": only(1e-6),
        "is_encoder_decoder": only(True),
        "is_decoder": only(False),
        "add_cross_attention": IRRELEVANT,  # Its decoder has it.
        "classifier_dropout": IRRELEVANT,  # Of a head that ours has not.
        "n_positions": IRRELEVANT,  # Of the data that it was trained on; positions have no end.
    }


def model_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """Turns config.json into our `model` block."""
    del model_type, names
    num_layers, num_decoder_layers = given["num_layers"], given["num_decoder_layers"]
    if num_decoder_layers not in (None, num_layers):
        raise UserError(
            f"config.json: num_layers={num_layers} and num_decoder_layers={num_decoder_layers} "
            "differ, which is not supported"
        )
    buckets, distance = (given[f"relative_attention_{n}"] for n in ("num_buckets", "max_distance"))
    if buckets < 4 or buckets % 2 or distance <= buckets // 2:
        raise UserError(
            f"config.json: relative_attention_num_buckets={buckets} must be even, at least 4, and "
            f"less than twice relative_attention_max_distance={distance}"
        )
    scaled = given["scale_decoder_outputs"]
    if scaled is None:  # Version 5 of transformers writes there what this one used to mean.
        scaled = given["tie_word_embeddings"] is not False
    return dict(
        name="t5",
        **{ours: given[theirs] for ours, theirs in _SIZES.items()},
        num_buckets=buckets,
        max_distance=distance,
        gated=_is_gated(given),
        tied_output=scaled,
        dropout=given["dropout_rate"],
        **HOW_TO_RUN,
    )


def _is_gated(given: dict[str, Any]) -> bool:
    """Tells whether the MLP is the gated one of T5 v1.1 (Shazeer 2020)."""
    # Two settings replace what the third says.
    named = given["feed_forward_proj"] or _RELU
    start, _, activation = named.rpartition("-")
    gated, activation = start == "gated", "gelu_new" if named == _GATED else activation
    if given["is_gated_act"] is not None:
        gated = given["is_gated_act"]
    activation = given["dense_act_fn"] or activation
    if start not in ("", "gated") or (gated, activation) not in (
        (False, _RELU),
        (True, "gelu_new"),
    ):
        raise UserError(
            f"config.json: feed_forward_proj={named!r}, is_gated_act={gated}, "
            f"dense_act_fn={activation!r} is not supported; only {_RELU!r} and {_GATED!r}, with "
            "'gelu_new', are"
        )
    return gated


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`."""
    return dict(
        architectures=["T5ForConditionalGeneration"],
        model_type="t5",
        is_encoder_decoder=True,
        **{theirs: model[ours] for ours, theirs in _SIZES.items()},
        num_decoder_layers=model["num_layers"],
        relative_attention_num_buckets=model["num_buckets"],
        relative_attention_max_distance=model["max_distance"],
        feed_forward_proj=_GATED if model["gated"] else _RELU,
        layer_norm_epsilon=1e-6,
        dropout_rate=model["dropout"],
        tie_word_embeddings=model["tied_output"],
    )


def _tied(model: dict[str, Any]) -> dict[str, str]:
    copies = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    copies += ["lm_head.weight"] if model["tied_output"] else []
    return dict.fromkeys(copies, "shared.weight")


FAMILY = HuggingFaceFamily(
    model_types=("t5",),
    prefix="",
    settings=settings,
    aliases={
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    },
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=_tied,
    # As in transformers: without an output of its own, it repeats the embedding, unscaled.
    fallbacks=lambda model: {} if model["tied_output"] else {"lm_head.weight": "shared.weight"},
    # Files of old versions have one for cross-attention, which is never read.
    ignored=("EncDecAttention.relative_attention_bias.weight",),
)
