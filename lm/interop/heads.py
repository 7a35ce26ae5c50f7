"""Task models of BERT and RoBERTa as `transformers` names them: a body with a head on it."""

from typing import Any

from lm.errors import UserError
from lm.interop import bert
from lm.interop.family import HuggingFaceFamily
from lm.interop.weights import Entry, Layout, entry

_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_ENDS = {"tagging": "ForTokenClassification", "question_answering": "ForQuestionAnswering"}


def with_head(model: dict[str, Any], kind: str, labels: tuple[str, ...]) -> HuggingFaceFamily:
    """The model of `transformers` that a task model of ours is.

    Its `table` is that of a `SequenceHead` (for texts) or a `TokenHead` in `lm.models.heads`.

    Args:
      model: the `model` block of the config.
      kind: of the task: "classification", "multi_label", "regression", "tagging" or
        "question_answering".
      labels: by output; none for the last two kinds but tagging.

    Raises:
      UserError: `transformers` has no such model.
    """
    if model["name"] != "bert":
        raise UserError(
            f"transformers has no {model['name']} with the head of task.kind={kind} as it is here; "
            "only that of a BERT can be written"
        )
    is_roberta = bool(model["position_offset"])
    base, family, name = "bert.", bert.BERT, "Bert"
    if is_roberta:
        base, family, name = "roberta.", bert.ROBERTA, "Roberta"
    encoder = [
        e._replace(ours=tuple(("body", *path[1:]) for path in e.ours))
        for e in family.table(model)
        if e.ours[0][0] == "encoder"
    ]
    if kind in _PROBLEMS:
        pool, head = f"{base}pooler.dense", "classifier"
        if is_roberta:
            pool, head = "classifier.dense", "classifier.out_proj"
        table = [*encoder, *_affine(pool, "pool/pooler"), *_affine(head, "head")]
    else:
        head = "qa_outputs" if kind == "question_answering" else "classifier"
        table = [*encoder, *_affine(head, "head")]

    def hf_config(model: dict[str, Any]) -> dict[str, Any]:
        ours = model | {"next_sentence": False}
        config = family.hf_config(ours)
        config["architectures"] = [name + _ENDS.get(kind, "ForSequenceClassification")]
        if kind in _PROBLEMS:
            config["problem_type"] = _PROBLEMS[kind]
        if kind == "regression":
            config["num_labels"] = 1
        elif labels:
            config["id2label"] = {str(i): label for i, label in enumerate(labels)}
            config["label2id"] = {label: i for i, label in enumerate(labels)}
        return config

    return family._replace(hf_config=hf_config, table=lambda model: table, tied=lambda model: {})


def _affine(theirs: str, ours: str) -> list[Entry]:
    return [
        entry(f"{theirs}.weight", f"{ours}/kernel", Layout.OUT_IN),
        entry(f"{theirs}.bias", f"{ours}/bias", Layout.VECTOR),
    ]
