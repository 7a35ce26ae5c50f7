"""Makes a task from a complete `task` block, and its inputs from a model and a tokenizer."""

import datetime
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn

from lm.chat import chat_template, parts_apart, template_files
from lm.errors import UserError
from lm.generation import beam, sampling
from lm.metrics import bleu_rouge
from lm.models.factory import family_named
from lm.models.parameters import Params
from lm.settings import call, lookup
from lm.tasks import answering, classification, language, tagging
from lm.tasks.task import Task
from lm.tasks.text import TextInputs
from lm.tokenizers.tokenizers import Tokenizer


def make_task(block: dict[str, Any], inputs: TextInputs) -> Task:
    """Makes the task of a complete block; raises UserError for an unknown kind or setting."""
    settings = dict(block)
    make = lookup("task.kind", settings.pop("kind"), _KINDS)
    if "class_weights" in settings:
        settings["class_weights"] = read_weights(settings["class_weights"])
    return call(make, "task", settings, inputs=inputs)


def text_inputs(
    model: Mapping[str, Any], tokenizer: Tokenizer, *, seq_len: int, truncate: bool
) -> TextInputs:
    """Makes the `TextInputs` of the `model` block of a config; the rest is of its `data` block.

    Raises UserError where the rows or the tokenizer do not fit the model.
    """
    max_len = model.get("max_len")
    if max_len is not None and seq_len > max_len:
        raise UserError(
            f"data.seq_len={seq_len} exceeds the model's positions, model.max_len={max_len}; "
            "lower it"
        )
    if tokenizer.vocab_size > model["vocab_size"]:
        raise UserError(
            f"the tokenizer's vocabulary of {tokenizer.vocab_size} is larger than the model's, "
            f"model.vocab_size={model['vocab_size']}"
        )
    return TextInputs(
        tokenizer,
        family_named(model["name"]),
        num_types=model.get("num_types", 1),  # Most families have no segments.
        seq_len=seq_len,
        truncate=truncate,
    )


def read_weights(text: str) -> list[float]:
    """Reads `task.class_weights`, which are numbers with commas between, or raises UserError."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"task.class_weights={text!r} must be balanced, or numbers") from None


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
    """Writes what follows each prompt: by beam search, or greedily where there is one beam."""
    settings = dict(vocab_size=tokenizer.vocab_size, max_new_tokens=max_new_tokens)
    settings |= dict(stop_ids=tokenizer.stop_ids, start_id=tokenizer.pad_id or 0)
    if num_beams > 1:
        settings |= dict(num_beams=num_beams, length_penalty=length_penalty, early_stopping=False)
        return [best[0].tokens for best in beam.search(model, params, prompts, **settings)]
    settings |= dict(temperature=0.0, top_k=0, top_p=1.0)  # At which no key is read.
    return sampling.generate(model, params, prompts, jax.random.key(0), **settings)


def _translation_scores(
    predictions: list[str], references: list[list[str]], *, tokenizer: str
) -> dict[str, float]:
    return {
        "bleu": bleu_rouge.bleu(predictions, references, tokenizer=tokenizer).score,
        "chrf": bleu_rouge.chrf(predictions, references).score,
    }


def _chat(*, inputs: TextInputs, template: str, messages: str, date: str | None = None) -> Task:
    sources = template_files.choose(template, None, "").sources
    try:
        now = datetime.datetime.fromisoformat(date) if date else datetime.datetime.now()
    except ValueError:
        raise UserError(f"task.date={date!r} is no day, such as 2026-01-31") from None
    # Runs of before `date` was a key encoded each answer by itself.
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
