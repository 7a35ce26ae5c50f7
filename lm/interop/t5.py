"""T5's weights and hyperparameters as `transformers` names them, both ways."""

from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, HuggingFaceFamily, require
from lm.interop.weights import Entry, Layout, entry, in_layers

_RELU, _GATED = "relu", "gated-gelu"


def table(model: dict[str, Any]) -> list[Entry]:
    """The relative positions that all layers of a stack share are kept in its first one."""
    extra = [] if model["tied_output"] else [("lm_head.weight", "output_embedding")]
    return [
        entry("shared.weight", "token_embedding", Layout.TABLE),
        *_stack("encoder", model["gated"], cross=False),
        *_stack("decoder", model["gated"], cross=True),
        *(entry(theirs, ours, Layout.TABLE) for theirs, ours in extra),
    ]


def _stack(name: str, gated: bool, *, cross: bool) -> list[Entry]:
    mlp = f"layer.{2 if cross else 1}."
    layer = [*_attention("layer.0.", "SelfAttention", "attention")]
    if cross:
        layer += _attention("layer.1.", "EncDecAttention", "cross_attention", "cross_norm")
    into = {"wi_0": "gate", "wi_1": "in"} if gated else {"wi": "in"}
    for theirs, ours in (into | {"wo": "out"}).items():
        layer.append(
            entry(f"{mlp}DenseReluDense.{theirs}.weight", f"mlp/{ours}/kernel", Layout.OUT_IN)
        )
    layer.append(entry(f"{mlp}layer_norm.weight", "mlp_norm/scale", Layout.VECTOR))
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


def model_block(config: dict[str, Any]) -> dict[str, Any]:
    """config.json -> the `model` block of ours. Absent keys have the defaults of transformers."""
    require(config, layer_norm_epsilon=(1e-6, 1e-6), is_encoder_decoder=(True, True))
    kind = config.get("feed_forward_proj", _RELU)
    if kind not in (_RELU, _GATED):
        raise UserError(
            f"config.json: feed_forward_proj={kind!r} is not supported; only {_RELU!r} and "
            f"{_GATED!r} are"
        )
    layers = config["num_layers"], config.get("num_decoder_layers") or config["num_layers"]
    if layers[0] != layers[1]:
        raise UserError(
            f"config.json: num_layers={layers[0]} and num_decoder_layers={layers[1]} differ, which "
            "is not supported"
        )
    return dict(
        name="t5",
        vocab_size=config["vocab_size"],
        num_layers=layers[0],
        num_heads=config["num_heads"],
        head_dim=config["d_kv"],
        model_dim=config["d_model"],
        mlp_dim=config["d_ff"],
        num_buckets=config.get("relative_attention_num_buckets", 32),
        max_distance=config.get("relative_attention_max_distance", 128),
        gated=kind == _GATED,
        # Version 5 of transformers writes in the second key what the first used to mean.
        tied_output=config.get("tie_word_embeddings", True)
        and config.get("scale_decoder_outputs", True),
        dropout=config.get("dropout_rate", 0.1),
        **HOW_TO_RUN,
    )


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`."""
    return dict(
        architectures=["T5ForConditionalGeneration"],
        model_type="t5",
        is_encoder_decoder=True,
        vocab_size=model["vocab_size"],
        num_layers=model["num_layers"],
        num_decoder_layers=model["num_layers"],
        num_heads=model["num_heads"],
        d_kv=model["head_dim"],
        d_model=model["model_dim"],
        d_ff=model["mlp_dim"],
        relative_attention_num_buckets=model["num_buckets"],
        relative_attention_max_distance=model["max_distance"],
        feed_forward_proj=_GATED if model["gated"] else _RELU,
        layer_norm_epsilon=1e-6,
        dropout_rate=model["dropout"],
        tie_word_embeddings=model["tied_output"],
    )


def _tied(model: dict[str, Any]) -> dict[str, str]:
    heads = ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    if model["tied_output"]:
        heads.append("lm_head.weight")
    return dict.fromkeys(heads, "shared.weight")


FAMILY = HuggingFaceFamily(
    model_types=("t5",),
    prefix="",
    model_block=model_block,
    hf_config=hf_config,
    table=table,
    tied=_tied,
    # Files of old versions have one for cross-attention, which is never read.
    ignored=("EncDecAttention.relative_attention_bias.weight",),
)
