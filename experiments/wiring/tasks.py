"""From the `task` block of a config to a task; what the block leaves open is read off the data."""

import collections
import datetime
import functools
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import linen as nn

from lm.chat import chat_template, parts_apart, template_files
from lm.data.records import Record
from lm.errors import UserError
from lm.generate import beam, sampling
from lm.metrics import bleu_rouge
from lm.models.parameters import Params
from lm.settings import call, lookup
from lm.tasks import answering, classification, language, tagging
from lm.tasks import labels as labels_lib
from lm.tasks.task import Task
from lm.tasks.text import TextInputs
from lm.tokenizers.tokenizers import Tokenizer

# Of each kind: the embedded example of Python's standard library.
_EMBEDDED = {
    "classification": "docstrings",
    "tagging": "token_roles",
    "question_answering": "questions",
    "seq2seq": "summaries",
    "chat": "conversations",
}


def embedded(kind: str) -> str:
    """The example that comes without data of one's own.

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
    """The block with its labels and their weights, so that a task needs no training data.

    Args:
      block: the `task` block; empty labels mean those of the records.
      records: of training; one without a proper label is for `encode` to report.
      templates: of chats; see `chat_templates`.

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
    counts = labels_lib.find_labels(records, read)
    labels = block["labels"] or tuple(counts)
    names = [labels_lib.clean(label) for label in labels]
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
    """What conversations are laid out by; None for other tasks.

    Raises:
      UserError: the block asks for a template that the folder has not.
    """
    if block["kind"] != "chat":
        return None
    found = template_files.read(pathlib.Path(init_from)) if init_from else None
    return template_files.choose(block["template"], found, init_from)


def _class_weights(block: dict[str, Any], labels: Sequence[str], counts: dict[str, int]) -> str:
    """One number a label, as text: what a config can hold in place of "" and "balanced"."""
    text = block["class_weights"]
    if not text:
        return ",".join(["1"] * len(labels))
    if text == "balanced":
        counts = {label: counts[labels_lib.clean(label)] for label in labels}
        if unseen := [label for label in labels if not counts[label]]:
            raise UserError(f"task.class_weights=balanced: no example has label {unseen[0]!r}")
        weights = classification.balanced_weights(counts)
        return ",".join(f"{weight:.6g}" for weight in weights)
    weights = _weights(text)
    if len(weights) != len(labels) or min(weights) < 0 or not 0 < sum(weights) < float("inf"):
        raise UserError(
            f"task.class_weights={text!r} must be balanced, or one number of at least 0 for each "
            f"label, and not all 0: {', '.join(labels)}"
        )
    return text


def _weights(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"task.class_weights={text!r} must be balanced, or numbers") from None


def make_task(block: dict[str, Any], inputs: TextInputs) -> Task:
    """The task of a complete block.

    Raises:
      UserError: an unknown kind, or settings that it does not take.
    """
    settings = dict(block)
    make = lookup("task.kind", settings.pop("kind"), _KINDS)
    if "class_weights" in settings:
        settings["class_weights"] = _weights(settings["class_weights"])
    return call(make, "task", settings, inputs=inputs)


def _on_texts(target: Callable[..., classification.Target]) -> Callable[..., Task]:
    def make(*, inputs: TextInputs, text: str, pair: str, **settings) -> Task:
        of_target = call(target, "task", settings)
        return classification.TextTask(inputs, of_target, text=text, pair=pair)

    return make


def _seq2seq(
    *,
    inputs: TextInputs,
    scorer: str,
    bleu_tokenizer: str,
    rouge_tokenizer: str,
    num_beams: int,
    length_penalty: float,
    **settings,
) -> Task:
    translation = functools.partial(_translation_scores, tokenizer=bleu_tokenizer)
    summarization = functools.partial(bleu_rouge.rouge, tokenizer=rouge_tokenizer)
    scorers = {
        "translation": (translation, ("bleu", "chrf")),
        "summarization": (summarization, bleu_rouge.ROUGE_TYPES),
    }
    settings["score"], settings["metrics"] = lookup("task.scorer", scorer, scorers)
    settings["score"](["a"], [["a"]])  # Raises for a tokenizer that is not there.
    if num_beams < 1:
        raise UserError(f"task.num_beams={num_beams} must be at least 1")
    settings["generate"] = functools.partial(
        _write,
        tokenizer=inputs.tokenizer,
        max_new_tokens=settings["target_len"],
        num_beams=num_beams,
        length_penalty=length_penalty,
    )
    return call(language.Seq2Seq, "task", settings, inputs=inputs)


def _write(
    model: nn.Module,
    params: Params,
    prompts: Sequence[Sequence[int]],
    *,
    tokenizer: Tokenizer,
    max_new_tokens: int,
    num_beams: int,
    length_penalty: float,
) -> list[list[int]]:
    """What follows each prompt: by beam search, or the likeliest token each time for one beam."""
    settings = dict(
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=max_new_tokens,
        stop_ids=tokenizer.stop_ids,
        start_id=tokenizer.pad_id or 0,
    )
    if num_beams > 1:
        settings |= dict(num_beams=num_beams, length_penalty=length_penalty, early_stopping=False)
        return [best[0].tokens for best in beam.search(model, params, prompts, **settings)]
    settings |= dict(temperature=0.0, top_k=0, top_p=1.0)
    return sampling.generate(model, params, prompts, jax.random.key(0), **settings)


def _translation_scores(
    predictions: list[str], references: list[list[str]], *, tokenizer: str
) -> dict[str, float]:
    return {
        "bleu": bleu_rouge.bleu(predictions, references, tokenizer=tokenizer).score,
        "chrf": bleu_rouge.chrf(predictions, references).score,
    }


def _chat(*, inputs: TextInputs, template: str, messages: str, date: str | None = None) -> Task:
    """`date` is missing in runs of before it was a key, which encoded each answer by itself."""
    sources = template_files.choose(template, None, "").sources
    try:
        now = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
    except ValueError:
        raise UserError(f"task.date={date!r} is no day, such as 2026-01-31") from None
    make = parts_apart.ChatTemplateApart if date is None else chat_template.ChatTemplate
    laid_out_by = make(sources, inputs.tokenizer, now=now)
    return language.Chat(inputs, template=laid_out_by, messages=messages)


_KINDS: dict[str, Callable[..., Task]] = {
    "classification": _on_texts(classification.OneLabel),
    "multi_label": _on_texts(classification.ManyLabels),
    "regression": _on_texts(classification.Number),
    "tagging": tagging.Tagging,
    "question_answering": answering.QuestionAnswering,
    "seq2seq": _seq2seq,
    "chat": _chat,
}
