"""BERT's weights and hyperparameters as `transformers` names them, both ways, and RoBERTa's."""

from collections.abc import Collection
from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, HuggingFaceFamily, check_head_dim
from lm.interop.settings import IRRELEVANT, Table, count, head_dim, number, one_dropout, only
from lm.interop.weights import Entry, Layout, entry, in_layers


def _affine(theirs: str, ours: str, num_in_dims: int = 1) -> list[Entry]:
    return [
        entry(f"{theirs}.weight", f"{ours}/kernel", Layout.OUT_IN, num_in_dims),
        entry(f"{theirs}.bias", f"{ours}/bias", Layout.VECTOR),
    ]


def _norm(theirs: str, ours: str) -> list[Entry]:
    return [
        entry(f"{theirs}.weight", f"{ours}/scale", Layout.VECTOR),
        entry(f"{theirs}.bias", f"{ours}/bias", Layout.VECTOR),
    ]


def _encoder(prefix: str) -> list[Entry]:
    layer = [
        *_affine("attention.self.query", "attention/query"),
        *_affine("attention.self.key", "attention/key"),
        *_affine("attention.self.value", "attention/value"),
        *_affine("attention.output.dense", "attention/out", 2),
        *_norm("attention.output.LayerNorm", "attention_norm"),
        *_affine("intermediate.dense", "mlp/in"),
        *_affine("output.dense", "mlp/out"),
        *_norm("output.LayerNorm", "mlp_norm"),
    ]
    embeddings = f"{prefix}embeddings."
    table = lambda name: (f"{embeddings}{name}_embeddings.weight",)
    return [
        entry(*table("word"), "encoder/token_embedding", Layout.TABLE),
        entry(*table("position"), "encoder/position_embedding", Layout.TABLE),
        entry(*table("token_type"), "encoder/type_embedding", Layout.TABLE),
        *_norm(f"{embeddings}LayerNorm", "encoder/embedding_norm"),
        *in_layers(f"{prefix}encoder.layer." + "{i}.", "encoder/layers", layer),
    ]


def bert_table(model: dict[str, Any]) -> list[Entry]:
    """As in `BertForPreTraining`, or in `BertForMaskedLM` without the next-sentence head."""
    heads = []
    if model["next_sentence"]:
        heads = [
            *_affine("bert.pooler.dense", "pooler"),
            *_affine("cls.seq_relationship", "next_sentence_head"),
        ]
    return [
        *_encoder("bert."),
        *_affine("cls.predictions.transform.dense", "transform"),
        *_norm("cls.predictions.transform.LayerNorm", "transform_norm"),
        entry("cls.predictions.bias", "output_bias", Layout.VECTOR),
        *heads,
    ]


def roberta_table(model: dict[str, Any]) -> list[Entry]:
    """As in `RobertaForMaskedLM`."""
    return [
        *_encoder("roberta."),
        *_affine("lm_head.dense", "transform"),
        *_norm("lm_head.layer_norm", "transform_norm"),
        entry("lm_head.bias", "output_bias", Layout.VECTOR),
    ]


_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
)


def settings(model_type: str) -> Table:
    """What config.json of a BERT or a RoBERTa may say."""
    return {
        **{name: count() for name in _COUNTS},
        "type_vocab_size": count(2),
        "layer_norm_eps": number(1e-12),
        **{name: number(0.1, positive=False, below=1) for name in _DROPOUTS},
        "pad_token_id": count(1, least=0) if model_type == "roberta" else IRRELEVANT,
        "hidden_act": only("gelu"),
        "position_embedding_type": only("absolute"),
        "is_decoder": only(False),
        "is_encoder_decoder": only(False),
        "add_cross_attention": only(False),
        "tie_word_embeddings": only(True),
    }


def _model_block(given: dict[str, Any], **more) -> dict[str, Any]:
    heads, width = given["num_attention_heads"], given["hidden_size"]
    max_len = given["max_position_embeddings"] - more["position_offset"]
    if max_len < 1:
        raise UserError(
            f"config.json: max_position_embeddings={given['max_position_embeddings']} leaves no "
            f"position behind pad_token_id={given['pad_token_id']}"
        )
    return dict(
        name="bert",
        vocab_size=given["vocab_size"],
        max_len=max_len,
        num_types=given["type_vocab_size"],
        num_layers=given["num_hidden_layers"],
        num_heads=heads,
        head_dim=head_dim(width, heads, f"hidden_size={width}, num_attention_heads={heads}"),
        model_dim=width,
        mlp_dim=given["intermediate_size"],
        norm_epsilon=float(given["layer_norm_eps"]),
        dropout=one_dropout({name: given[name] for name in _DROPOUTS}),
        **more,
        **HOW_TO_RUN,
    )


def bert_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """config.json -> the `model` block of ours.

    Which heads there are, the tensors say; an encoder without a head for masked tokens is read with
    its pooler, if it has one.
    """
    del model_type
    is_masked = "cls.predictions.transform.dense.weight" in names
    has_pooler = any(name.endswith("pooler.dense.weight") for name in names)
    next_sentence = "cls.seq_relationship.weight" in names or (has_pooler and not is_masked)
    return _model_block(given, position_offset=0, next_sentence=next_sentence)


def roberta_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """RoBERTa counts positions from the one behind its pad token's id."""
    del model_type, names
    return _model_block(given, position_offset=given["pad_token_id"] + 1, next_sentence=False)


def _hf_config(model: dict[str, Any]) -> dict[str, Any]:
    check_head_dim(model)
    return dict(
        vocab_size=model["vocab_size"],
        max_position_embeddings=model["max_len"] + model["position_offset"],
        type_vocab_size=model["num_types"],
        num_hidden_layers=model["num_layers"],
        num_attention_heads=model["num_heads"],
        hidden_size=model["model_dim"],
        intermediate_size=model["mlp_dim"],
        layer_norm_eps=model["norm_epsilon"],
        hidden_dropout_prob=model["dropout"],
        attention_probs_dropout_prob=model["dropout"],
        hidden_act="gelu",
        tie_word_embeddings=True,
    )


def bert_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `bert_block`."""
    head = "BertForPreTraining" if model["next_sentence"] else "BertForMaskedLM"
    return _hf_config(model) | dict(architectures=[head], model_type="bert")


def roberta_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `roberta_block`."""
    if model["next_sentence"]:
        raise UserError("model.next_sentence=True: transformers' RoBERTa has no such head")
    more = dict(
        architectures=["RobertaForMaskedLM"],
        model_type="roberta",
        pad_token_id=model["position_offset"] - 1,
    )
    return _hf_config(model) | more


_BUFFERS = ("embeddings.position_ids", "embeddings.token_type_ids")  # Counted up, not learned.
_POOLER = ("pooler.dense.weight", "pooler.dense.bias")

BERT = HuggingFaceFamily(
    model_types=("bert",),
    prefix="bert.",
    settings=settings,
    model_block=bert_block,
    hf_config=bert_config,
    table=bert_table,
    tied=lambda model: {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    ignored=_BUFFERS,
    spare=_POOLER,
)
ROBERTA = HuggingFaceFamily(
    model_types=("roberta",),
    prefix="roberta.",
    settings=settings,
    model_block=roberta_block,
    hf_config=roberta_config,
    table=roberta_table,
    tied=lambda model: {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    ignored=_BUFFERS,
    spare=_POOLER,
)
