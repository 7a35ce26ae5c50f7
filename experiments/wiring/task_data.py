"""The labelled data of a config, and the task that reads it."""

import collections
import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import ml_collections
import numpy as np

from experiments.wiring import tasks
from lm.chat import template_files
from lm.corpus import tokenizer_kinds
from lm.corpus.sources import Document
from lm.data import records
from lm.data.examples import Features, num_seen
from lm.data.records import Record
from lm.errors import UserError
from lm.fairness import substitution
from lm.formats.fields import texts_of
from lm.formats.files import RestUnread
from lm.loading.run_folder import head_of
from lm.settings import choose
from lm.tasks import labels
from lm.tasks.factory import make_task, text_inputs
from lm.tasks.task import Task, UnfitFamily
from lm.tokenizers import tokenizers


class Split(NamedTuple):
    """Training or validation data."""

    records: list[Record]
    examples: list[Features]  # Of all records together.
    owners: list[int]  # The record of each example, by its index.


class TaskData(NamedTuple):
    """The task and the data of a config of fine-tuning."""

    task: Task
    block: dict[str, Any]  # The `task` block, complete.
    tokenizer: tokenizers.Tokenizer
    train: Split
    validation: Split
    skipped: list[UserError]  # Why records were left out, where data.on_error="skip".
    lines: dict[str, str]  # What a start says of the task, by name.
    hash: str  # Changes with the contents and the tokenizer.
    warnings: Sequence[str] = ()  # What people must know before they believe its numbers.

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of what an evaluation gives."""
        return tuple(f"eval/{name}" for name in ("loss", *self.task.metrics))


class Records(NamedTuple):
    """The records of a config's files."""

    train: list[Record]
    validation: list[Record]
    skipped: list[UserError]  # Why records were left out, where data.on_error="skip".
    fingerprint: str  # Changes with the contents.


def read_records(data: ml_collections.ConfigDict, kind: str) -> Records:
    """Reads both splits of a `data` block, for tasks of this kind.

    Where there is no file for validation, a part of the training records is held out.

    Raises:
      UserError: what cannot be read, by file and line.
    """
    choose("data.on_error", data.on_error, ("raise", "skip"))
    source = data.source
    if not source:
        has_files = data.train or data.validation
        source = "files" if has_files else f"python_stdlib:{tasks.embedded(kind)}"
    skipped: list[UserError] = []
    splits: dict[str, list[Record]] = {}
    fingerprints = []
    for split, spec in (("train", data.train), ("validation", data.validation)):
        if spec or source.startswith("python_stdlib"):
            limit = document_limit(data)
            found = records.read_records(source, split=split, spec=spec, **limit)
            splits[split] = list(records.readable(found, data.on_error, skipped))
            fingerprints.append(found.fingerprint())
    if "validation" not in splits:  # No file of its own: a part of the training records.
        held_out = records.hold_out(splits.get("train", []), data.validation_share)
        splits["train"], splits["validation"] = held_out
    return Records(splits.get("train", []), splits["validation"], skipped, "\n".join(fingerprints))


def document_limit(data: ml_collections.ConfigDict) -> dict[str, int]:
    """`max_document_bytes` of a `data` block, which runs of older versions do not have."""
    if "max_document_bytes" not in data:
        return {}
    return {"max_document_bytes": data.max_document_bytes}


def read(
    task: ml_collections.ConfigDict,
    data: ml_collections.ConfigDict,
    model: ml_collections.ConfigDict,
    tokenizer: ml_collections.ConfigDict,
    init_from: str,
) -> TaskData:
    """Reads and encodes both splits; all arguments are of a config of fine-tuning.

    Raises:
      UserError: records that do not suit the task, by file and line.
    """
    found = read_records(data, task.kind)
    _check_any(found.train, "data.train")
    if data.num_examples:
        found = found._replace(train=records.take(found.train, data.num_examples))
    exchanged = _exchanged(task, data.augment, found.train)
    tokenizer, asked = _tokenizer(tokenizer, found.train), task.to_dict()
    templates = tasks.chat_templates(asked, init_from)
    block = tasks.complete(asked, found.train, templates)
    head = head_of(pathlib.Path(init_from)) if init_from else None
    head = head if head and head.kind == block["kind"] else None
    # The head of `init_from` is taken over where it knows all labels, and so is their order.
    if head and not asked.get("labels", True):
        index = labels.index_of(head.kind, head.labels, block.get("scheme"))
        if {*block["labels"]} <= index.keys():
            block = tasks.complete(asked | {"labels": head.labels}, found.train, templates)
    inputs = text_inputs(model, tokenizer, seq_len=data.seq_len, truncate=data.truncate)
    try:
        task = make_task(block, inputs)
    except UnfitFamily as error:
        of = f"init_from={init_from}, a {model.name}, does not fit: "
        raise UserError(f"{of if init_from else ''}{error}") from None
    skipped, on_error = list(found.skipped), data.on_error
    train = encode(task, [*found.train, *exchanged], "data.train", on_error, skipped)
    validation = encode(task, found.validation, "data.validation", on_error, skipped)
    identity = f"{found.fingerprint}\n{tokenizer.fingerprint}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:20]
    lines = _template_lines(task, tokenizer, templates)
    is_numbered = labels.takes_numbers(block["kind"], block.get("labels", ()))
    if is_numbered and head and tuple(head.labels) == tuple(block["labels"]):
        lines["labels"] = labels.what_numbers_mean(block["labels"])
    if exchanged:
        lines["augmented"] = (
            f"{len(exchanged):,} of {len(found.train):,} training records hold a term of "
            f"data.augment={data.augment}, and are learned with these exchanged, too"
        )
    for key, split in (("data.train", train), ("data.validation", validation)):
        _check_varies(block, task, split.records, key)
    warnings = _warnings(block, task, train, validation, skipped)
    warnings += _unknown_line(tokenizer, [*train.examples, *validation.examples])
    return TaskData(task, block, tokenizer, train, validation, skipped, lines, digest, warnings)


def _exchanged(
    task: ml_collections.ConfigDict, names: str, found: Sequence[Record]
) -> list[Record]:
    """Makes a record of each that holds a term of these lists, with its terms exchanged.

    Raises:
      UserError: lists that cannot be read, no such record, or a task whose labels would not fit.
    """
    if not names:
        return []
    if task.kind not in _AUGMENTED:
        raise UserError(
            f"data.augment={names}: of task.kind={task.kind} what is right may stand in the text; "
            f"augment {', '.join(_AUGMENTED)}"
        )
    words = substitution.read(names, "data.augment")
    fields = [name for name in (task.text, task.pair) if name]
    made = [substitution.exchanged(record, fields, words) for record in found]
    if not any(made):
        raise UserError(f"data.augment={names}: no training record holds a term; leave it out")
    return [record for record, _ in filter(None, made)]


_AUGMENTED = ("classification", "multi_label", "regression")


def _check_varies(block: dict[str, Any], task: Task, found: Sequence[Record], key: str) -> None:
    """Raises UserError where regression has one number alone to learn or to be correlated with."""
    if block["kind"] != "regression":
        return
    values = {task.gold(record)["value"] for record in found}
    if len(values) == 1:
        raise UserError(
            f"{key}: task.label={block['label']!r} is {values.pop():g} in all of the {len(found)} "
            "records, so that there is nothing to learn and no correlation; give others"
        )


def _warnings(
    block: dict[str, Any],
    task: Task,
    train: Split,
    validation: Split,
    skipped: Sequence[UserError],
) -> list[str]:
    lines = [f"the rest of a file was not read: {e}" for e in skipped if isinstance(e, RestUnread)]
    num_records = len(validation.records)
    if num := num_seen(train.examples, validation.examples, validation.owners):
        lines.append(
            f"{num:,} of {num_records:,} validation examples ({num / num_records:.2%}) read just "
            "as one of training does, so that scores are not those of new text"
        )
    if block["kind"] not in ("classification", "multi_label", "tagging"):
        return lines
    counts = [_label_counts(block, task, split.records) for split in (train, validation)]
    for group in labels.near_equal(dict.fromkeys([*counts[0], *counts[1]])):
        lines.append(f"labels are nearly equal, and learned apart: {', '.join(map(repr, group))}")
    expected = dict.fromkeys([*map(labels.clean, block["labels"]), *counts[0]])
    if block["kind"] == "tagging":  # Its labels are tags, such as B-PER, and its counts of types.
        expected = counts[0]
    for count, of in zip(counts, ("training", "validation"), strict=True):
        if missing := [label for label in expected if not count[label]]:
            more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
            lines.append(f"no {of} example has the label {', '.join(missing[:5])}{more}")
    return lines


def _unknown_line(tokenizer: tokenizers.Tokenizer, examples: Sequence[Features]) -> list[str]:
    if tokenizer.unk_id is None:
        return []
    names = ("tokens_BL", "encoder_tokens_BM", "targets_BL")
    texts = [example[name] for example in examples for name in names if name in example]
    num_tokens = sum(map(len, texts))
    num = sum(int(np.sum(text == tokenizer.unk_id)) for text in texts)
    line = f"{num:,} of {num_tokens:,} tokens stand for what the tokenizer does not know"
    return [line] * bool(num)


def _label_counts(
    block: dict[str, Any], task: Task, found: Sequence[Record]
) -> collections.Counter[str]:
    """Counts how often each label occurs, or each type of entity."""
    counts: collections.Counter[str] = collections.Counter()
    for record in found:
        gold = task.gold(record)
        names = gold.get("labels", gold.get("tags", [gold.get("label")]))
        if block["kind"] == "tagging" and block["scheme"]:
            names = [tag.partition("-")[2] or tag for tag in names]
        counts.update(map(labels.clean, names))
    return counts


def _template_lines(
    task: Task, tokenizer: tokenizers.Tokenizer, templates: template_files.Templates | None
) -> dict[str, str]:
    if templates is None:
        return {}
    token_id, text = task.template.end
    ends = "nothing ends an answer: no model learns to stop by it"
    if token_id is not None:
        ends = f"an answer ends with {tokenizer.piece(token_id)}"
    elif text:
        ends = f"an answer ends with the text {text!r}, which is no special token"
    return {"chat template": f"{templates.origin}; {ends}"}


def encode(
    task: Task, found: Sequence[Record], key: str, on_error: str, skipped: list[UserError]
) -> Split:
    """Encodes the records that suit the task.

    Raises:
      UserError: none does, or one does not and `on_error` is "raise".
    """
    split = Split([], [], [])
    for record in found:
        try:
            examples = task.encode(record)
        except UserError as error:
            if on_error == "raise":
                raise
            skipped.append(error)
            continue
        split.owners.extend([len(split.records)] * len(examples))
        split.examples.extend(examples)
        split.records.append(record)
    _check_any(split.records, key)
    return split


def _check_any(found: Sequence[Record], key: str) -> None:
    if not found:
        raise UserError(f"{key} holds no example that can be used; give it some")


def _tokenizer(
    tokenizer: ml_collections.ConfigDict, found: Sequence[Record]
) -> tokenizers.Tokenizer:
    """Makes the tokenizer that a block names, or trains one on these texts."""
    make_tokenizer, _ = tokenizer_kinds.tokenizer_kind(**tokenizer)
    return make_tokenizer(
        Document(text, record.name) for record in found for text in texts_of(record)
    )
