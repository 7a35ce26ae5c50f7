"""Names task models, a body with a head on it, as `transformers` does."""

from typing import Any, NamedTuple

from lm.errors import UserError
from lm.interop import bert, gpt2, llama, t5
from lm.interop.family import HuggingFaceFamily
from lm.interop.weights import affine
from lm.tokenizers import tokenizer_folder

_PROBLEMS = {
    "classification": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
_TEXT, _TAGS, _ANSWERS = tokenizer_folder.HEADS
_ENDS = dict.fromkeys(_PROBLEMS, _TEXT) | {"tagging": _TAGS, "question_answering": _ANSWERS}
KINDS = tuple(_ENDS)  # Of tasks whose head `transformers` may have.
OF_TEXTS = tuple(_PROBLEMS)  # Of which a decoder's reads the last token that is no padding.


class _Names(NamedTuple):
    """Says how `transformers` names a family's task models."""

    family: HuggingFaceFamily
    start: str  # Of the classes' names.
    body: tuple[str, ...]  # Where the body's parameters stand in the module that is pretrained.
    heads: dict[str, dict[str, str]]  # By the end of a class's name: its layers, by ours.


def _names(model: dict[str, Any]) -> _Names:
    tags, answers = {_TAGS: {"head": "classifier"}}, {_ANSWERS: {"head": "qa_outputs"}}
    match model["name"]:
        case "bert" if model["position_offset"]:
            texts = {_TEXT: {"pool/pooler": "classifier.dense", "head": "classifier.out_proj"}}
            return _Names(bert.ROBERTA, "Roberta", ("encoder",), texts | tags | answers)
        case "bert":
            texts = {_TEXT: {"pool/pooler": "bert.pooler.dense", "head": "classifier"}}
            return _Names(bert.BERT, "Bert", ("encoder",), texts | tags | answers)
        case "gpt2":
            return _Names(gpt2.FAMILY, "GPT2", (), {_TEXT: {"head": "score"}} | tags)
        case "llama":  # Or a Mistral or Qwen2, whose classes are named so.
            start = llama.hf_config(model)["architectures"][0].removesuffix("ForCausalLM")
            scores = {_TEXT: {"head": "score"}, _TAGS: {"head": "score"}}
            return _Names(llama.FAMILY, start, (), scores)
        case "t5":
            return _Names(t5.FAMILY, "T5", (), {})
    raise AssertionError(model["name"])


class Head(NamedTuple):
    """The head of a folder of `transformers`, as a task of ours."""

    kind: str  # One of `KINDS`.
    labels: tuple[str, ...]  # By output; none for regression and answers.


def head_of(config: dict[str, Any]) -> Head | None:
    """Finds the task that `architectures` of config.json names; None where there is no such head.

    Raises:
      UserError: a problem_type, or labels, that cannot be.
    """
    match config.get("architectures"):
        case [str(name)] if name.endswith(_ANSWERS):
            return Head("question_answering", ())
        case [str(name)] if name.endswith(_TAGS):
            return Head("tagging", _labels(config))
        case [str(name)] if name.endswith(_TEXT):
            labels = _labels(config)
        case _:
            return None
    problem = config.get("problem_type")
    if problem is None:  # What transformers would train it for.
        problem = "regression" if len(labels) == 1 else "single_label_classification"
    kind = next((kind for kind, known in _PROBLEMS.items() if known == problem), None)
    if kind is None:
        raise UserError(
            f"config.json: problem_type={problem!r} is unknown; known are "
            f"{', '.join(_PROBLEMS.values())}"
        )
    if kind == "regression" and len(labels) != 1:
        raise UserError(
            f"config.json: problem_type='regression' with {len(labels)} numbers is not "
            "supported; only one is"
        )
    return Head(kind, () if kind == "regression" else labels)


def _labels(config: dict[str, Any]) -> tuple[str, ...]:
    """Reads the names of the outputs, in their order, as `transformers` does."""
    named = config.get("id2label")
    if named is None:
        count = config.get("num_labels", 2)  # It leaves out what is its default.
        if not isinstance(count, int) or not 0 < count < 1_000_000:
            raise UserError(f"config.json: num_labels={count!r} must be a positive whole number")
        return tuple(f"LABEL_{i}" for i in range(count))
    if isinstance(named, dict) and all(map(str.isdecimal, named)):
        by_id = {int(key): str(label) for key, label in named.items()}  # In any order in JSON.
        labels = tuple(label for _, label in sorted(by_id.items()))
        if sorted(by_id) == list(range(len(by_id))) and len(set(labels)) == len(labels) > 0:
            return labels
    raise UserError(
        f"config.json: id2label={str(named)[:100]} does not name each output 0, 1, ... once"
    )


def body_family(
    model: dict[str, Any], kind: str, labels: tuple[str, ...], *, has_head: bool
) -> HuggingFaceFamily:
    """Describes the tensors of a task model that a folder of `transformers` may hold.

    Its `table` is that of a `SequenceHead` (for texts) or a `TokenHead` in `lm.models.heads`: the
    body, and the head where `transformers` has the same.

    Args:
      model: the `model` block of the config.
      kind, labels: see `Head`.
      has_head: otherwise the table is of the body, and of a pooler that was pretrained with it.
    """
    family, start, at, heads = _names(model)
    body = [
        e._replace(ours=tuple(("body", *path[len(at) :]) for path in e.ours))
        for e in family.table(model)
        if e.ours[0][: len(at)] == at and not _is_output(e.ours[0], model)
    ]
    layers = heads.get(_ENDS.get(kind, ""), {})
    # What a decoder of theirs says of a text has no bias; ours has one, which is 0 then.
    has_bias = _ENDS.get(kind) != _TEXT or model["name"] == "bert"
    head = [
        e
        for ours, theirs in layers.items()
        for e in affine(theirs, ours, has_bias=has_bias)
        if has_head or (ours != "head" and theirs.startswith(family.prefix))
    ]

    def hf_config(model: dict[str, Any]) -> dict[str, Any]:
        config = family.hf_config(model | {"next_sentence": False} if start == "Bert" else model)
        config["architectures"] = [start + _ENDS[kind]]
        if kind in _PROBLEMS:
            config["problem_type"] = _PROBLEMS[kind]
        if kind == "regression":
            config["num_labels"] = 1
        elif labels:
            config["id2label"] = {str(i): label for i, label in enumerate(labels)}
            config["label2id"] = {label: i for i, label in enumerate(labels)}
        return config

    # Of what is tied to an embedding, T5's reader stays, but no output.
    is_kept = lambda copy: copy.startswith("encoder.")
    return family._replace(
        hf_config=hf_config,
        table=lambda model: [*body, *head],
        tied=lambda model: {k: v for k, v in family.tied(model).items() if is_kept(k)},
        zeros=() if has_bias or not has_head else (("head", "bias"),),
    )


def with_head(model: dict[str, Any], kind: str, labels: tuple[str, ...]) -> HuggingFaceFamily:
    """Describes a task model with its head as one of `transformers`; see `body_family`.

    Raises:
      UserError: `transformers` has no such model.
    """
    if _ENDS[kind] not in _names(model).heads:
        raise UserError(
            f"transformers has no {model['name']} with the head of task.kind={kind} as it is here"
        )
    return body_family(model, kind, labels, has_head=True)


def _is_output(path: tuple[str, ...], model: dict[str, Any]) -> bool:
    """Tells a parameter of the output, or of T5's decoder, from one of the body."""
    return path[0] == "output_embedding" or (model["name"] == "t5" and path[0] == "decoder")
