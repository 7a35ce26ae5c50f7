"""BERT's weights and hyperparameters as `transformers` names them, both ways, and RoBERTa's.

A RoBERTa is a BERT whose positions begin behind its pad token's id, `model.position_offset`.
"""

from collections.abc import Collection
from typing import Any

from lm.errors import UserError
from lm.interop.family import HOW_TO_RUN, HuggingFaceFamily, check_head_dim
from lm.interop.settings import IRRELEVANT, Table, count, head_dim, number, one_dropout, only
from lm.interop.weights import Entry, Layout, affine, entry, in_layers, norm

_SIZES = {  # By our name and theirs.
    "vocab_size": "vocab_size",
    "model_dim": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "mlp_dim": "intermediate_size",
}
_DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob")
_HEADS = {  # Of masked tokens: a layer, its norm, and where the output has its own bias.
    "bert": ("transform.dense", "transform.LayerNorm", "cls.predictions."),
    "roberta": ("dense", "layer_norm", "lm_head."),
}


def model_type_of(model: dict[str, Any]) -> str:
    """Says by which model_type `transformers` knows a BERT of ours."""
    return "roberta" if model["position_offset"] else "bert"


def table(model: dict[str, Any]) -> list[Entry]:
    """Lists the tensors of `RobertaForMaskedLM`, `BertForPreTraining` or `BertForMaskedLM`."""
    model_type = model_type_of(model)
    dense, layer_norm, head = _HEADS[model_type]
    layer = [
        *affine("attention.self.query", "attention/query"),
        *affine("attention.self.key", "attention/key"),
        *affine("attention.self.value", "attention/value"),
        *affine("attention.output.dense", "attention/out", num_in_dims=2),
        *norm("attention.output.LayerNorm", "attention_norm"),
        *affine("intermediate.dense", "mlp/in"),
        *affine("output.dense", "mlp/out"),
        *norm("output.LayerNorm", "mlp_norm"),
    ]
    of_pairs = [
        *affine("bert.pooler.dense", "pooler"),
        *affine("cls.seq_relationship", "next_sentence_head"),
    ]
    embeddings = f"{model_type}.embeddings."
    of_words = lambda name: f"{embeddings}{name}_embeddings.weight"
    return [
        entry(of_words("word"), "encoder/token_embedding", Layout.TABLE),
        entry(of_words("position"), "encoder/position_embedding", Layout.TABLE),
        entry(of_words("token_type"), "encoder/type_embedding", Layout.TABLE),
        *norm(f"{embeddings}LayerNorm", "encoder/embedding_norm"),
        *in_layers(f"{model_type}.encoder.layer." + "{i}.", "encoder/layers", layer),
        *affine(head + dense, "transform"),
        *norm(head + layer_norm, "transform_norm"),
        entry(f"{head}bias", "output_bias", Layout.VECTOR),
        *(of_pairs if model["next_sentence"] and model_type == "bert" else []),
    ]


def settings(model_type: str) -> Table:
    """Lists what config.json of a BERT or a RoBERTa may say."""
    return {
        **{name: count() for name in (*_SIZES.values(), "max_position_embeddings")},
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


def model_block(given: dict[str, Any], model_type: str, names: Collection[str]) -> dict[str, Any]:
    """Turns config.json into our `model` block."""
    heads, width = given["num_attention_heads"], given["hidden_size"]
    is_bert = model_type == "bert"
    # fairseq, where RoBERTa comes from, counts positions from the one behind the pad token's id.
    offset = 0 if is_bert else given["pad_token_id"] + 1
    if given["max_position_embeddings"] <= offset:
        raise UserError(
            f"config.json: max_position_embeddings={given['max_position_embeddings']} leaves no "
            f"position behind pad_token_id={given['pad_token_id']}"
        )
    # The tensors say which heads there are. An encoder without one for masked tokens is read with
    # its pooler, if it has one.
    is_masked = "cls.predictions.transform.dense.weight" in names
    has_pooler = any(name.endswith("pooler.dense.weight") for name in names)
    has_pair_head = "cls.seq_relationship.weight" in names or (has_pooler and not is_masked)
    return dict(
        name="bert",
        **{ours: given[theirs] for ours, theirs in _SIZES.items()},
        max_len=given["max_position_embeddings"] - offset,
        num_types=given["type_vocab_size"],
        head_dim=head_dim(width, heads, f"hidden_size={width}, num_attention_heads={heads}"),
        norm_epsilon=float(given["layer_norm_eps"]),
        dropout=one_dropout({name: given[name] for name in _DROPOUTS}),
        position_offset=offset,
        next_sentence=is_bert and has_pair_head,  # RoBERTa was pretrained without one.
        **HOW_TO_RUN,
    )


def hf_config(model: dict[str, Any]) -> dict[str, Any]:
    """Inverts `model_block`."""
    model_type, offset = model_type_of(model), model["position_offset"]
    if model_type == "roberta" and model["next_sentence"]:
        raise UserError("model.next_sentence=True: transformers' RoBERTa has no such head")
    check_head_dim(model)
    architecture = "BertForPreTraining" if model["next_sentence"] else "BertForMaskedLM"
    if model_type == "roberta":
        architecture = "RobertaForMaskedLM"
    return dict(
        **{theirs: model[ours] for ours, theirs in _SIZES.items()},
        max_position_embeddings=model["max_len"] + offset,
        type_vocab_size=model["num_types"],
        layer_norm_eps=model["norm_epsilon"],
        **dict.fromkeys(_DROPOUTS, model["dropout"]),
        hidden_act="gelu",
        tie_word_embeddings=True,
        architectures=[architecture],
        model_type=model_type,
        **({"pad_token_id": offset - 1} if offset else {}),
    )


def _family(model_type: str) -> HuggingFaceFamily:
    head = _HEADS[model_type][-1]
    return HuggingFaceFamily(
        model_types=(model_type,),
        prefix=f"{model_type}.",
        settings=settings,
        model_block=model_block,
        hf_config=hf_config,
        table=table,
        tied=lambda model: {
            f"{head}decoder.weight": f"{model_type}.embeddings.word_embeddings.weight",
            f"{head}decoder.bias": f"{head}bias",
        },
        # Counted up, not learned.
        ignored=("embeddings.position_ids", "embeddings.token_type_ids"),
        spare=("pooler.dense.weight", "pooler.dense.bias"),
    )


BERT, ROBERTA = _family("bert"), _family("roberta")
