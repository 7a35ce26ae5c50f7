"""Completes the `task` block of a config: what it leaves open is read off the data."""

import collections
import pathlib
from collections.abc import Sequence
from typing import Any

from lm.chat import template_files
from lm.data.records import Record
from lm.errors import UserError
from lm.tasks import classification, tagging
from lm.tasks import labels as labels_lib
from lm.tasks.factory import read_weights

# Of each kind: the embedded example of Python's standard library.
_EMBEDDED = {
    "classification": "docstrings",
    "tagging": "token_roles",
    "question_answering": "questions",
    "seq2seq": "summaries",
    "chat": "conversations",
}


def embedded(kind: str) -> str:
    """Names the example that comes without data of one's own.

    Raises:
      UserError: this kind has none.
    """
    if kind not in _EMBEDDED:
        raise UserError(
            f"task.kind={kind!r} has no example of its own; set --config.data.train=FILE"
        )
    return _EMBEDDED[kind]


def complete(
    block: dict[str, Any], records: Sequence[Record], templates: template_files.Templates | None
) -> dict[str, Any]:
    """Completes a `task` block by labels and their weights, so that it needs no training data.

    Empty labels mean those of the records of training; `templates` are of chats.

    Raises:
      UserError: fewer than two labels, or weights that do not fit them.
    """
    if block["kind"] == "chat":
        return block | {"template": template_files.dumps(templates.sources)}
    if block["kind"] == "tagging" and not block["labels"]:
        names = ("tokens", "tags", "scheme", "on_ill_formed")
        return block | {"labels": tuple(tagging.find_tags(records, *(block[n] for n in names)))}
    if block["kind"] not in ("classification", "multi_label"):
        return block
    if block["kind"] == "multi_label":
        if not block["labels"]:
            labels_lib.refuse_rows(records, block["label"])
        read = lambda record: labels_lib.labels_of(record, block["label"], block["labels"])
    else:  # One, whatever it holds.
        read = lambda record: [labels_lib.label_of(record, block["label"])]
    counts = labels_lib.find_labels(records, read)  # `encode` reports records without one.
    labels = block["labels"] or tuple(counts)
    names = [labels_lib.clean(label) for label in labels]
    # Other spellings of a label, such as its number, count as it.
    index = labels_lib.index_of(block["kind"], labels)
    found, counts = counts, collections.Counter()
    for label, num in found.items():
        if label in index:
            counts[names[index[label]]] += num
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"task.labels={labels!r} has {twice[0]!r} twice; name each label once")
    if len(labels) < 2:
        for record in records:
            read(record)  # Raises where this is the reason.
        raise UserError(
            f"task.label={block['label']!r} has {len(labels)} labels in data.train; two or more "
            "are needed"
        )
    return block | {"labels": labels, "class_weights": _class_weights(block, labels, counts)}


def chat_templates(block: dict[str, Any], init_from: str) -> template_files.Templates | None:
    """Chooses the templates that lay conversations out; None for other tasks.

    Raises:
      UserError: the block asks for a template that the folder has not.
    """
    if block["kind"] != "chat":
        return None
    found = template_files.read(pathlib.Path(init_from)) if init_from else None
    return template_files.choose(block["template"], found, init_from)


def _class_weights(block: dict[str, Any], labels: Sequence[str], counts: dict[str, int]) -> str:
    """Writes one number a label: what a config can hold in place of "" and "balanced"."""
    text = block["class_weights"]
    if not text:
        return ",".join(["1"] * len(labels))
    if text == "balanced":
        counts = {label: counts[labels_lib.clean(label)] for label in labels}
        if unseen := [label for label in labels if not counts[label]]:
            raise UserError(f"task.class_weights=balanced: no example has label {unseen[0]!r}")
        weights = classification.balanced_weights(counts)
        return ",".join(f"{weight:.6g}" for weight in weights)
    weights = read_weights(text)
    if len(weights) != len(labels) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise UserError(
            f"task.class_weights={text!r} must be balanced, or one number of at least 0 for each "
            f"label, and not all 0: {', '.join(labels)}"
        )
    return text
