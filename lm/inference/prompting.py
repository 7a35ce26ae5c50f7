"""Finds how a run reads a prompt: affixes, chat template, and what ends the answer."""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm.chat import template_files
from lm.chat.chat_template import ChatTemplate
from lm.generation.ending import Stops
from lm.loading import task_model
from lm.loading.run import Run
from lm.models.factory import family_named
from lm.tasks import language
from lm.tokenizers import framing, stop_ids
from lm.tokenizers.tokenizers import Tokenizer


def say_what_is_unused(folder: pathlib.Path, tokenizer: Tokenizer) -> None:
    """Says on standard error what generation_config.json of a run or folder asks for in vain."""
    for place in (folder, folder / "tokenizer"):
        if line := stop_ids.unused_settings(place, tokenizer.vocab_size):
            print(line, file=sys.stderr)


def say_what_ends(template: ChatTemplate) -> None:
    """Says on standard error which text ends an answer, or that nothing does."""
    line = "the chat template ends no answer: only a token that ends texts, or a stop string may"
    if template.end.text:
        line = f"an answer ends at {template.end.text!r}, as the chat template writes it"
    if template.end.text or template.end.token_id is None:
        print(line, file=sys.stderr)


class PromptAffixes(NamedTuple):
    """Holds token ids to put before and behind a text; a text to continue has none behind it."""

    start: tuple[int, ...]
    end: tuple[int, ...]

    def around(self, ids: Sequence[int]) -> list[int]:
        """Puts these around the ids of a text, which may spell out its own start."""
        has_start = tuple(ids[: len(self.start)]) == self.start
        return [*(() if has_start else self.start), *ids, *self.end]


def affixes_of(config: dict[str, Any], tokenizer: Tokenizer) -> PromptAffixes:
    """Finds what stands around a text, without a task or a chat template.

    `data.add_bos` says it for a run that was pretrained here, whose encoder, if it has one, read an
    end-of-text token last. For all others the tokenizer's own post-processor does.
    """
    has_encoder = family_named(config["model"]["name"]).architecture == "encoder_decoder"
    if config["experiment"] != "pretrain":
        return PromptAffixes(tokenizer.prefix_ids, tokenizer.suffix_ids if has_encoder else ())
    ids = lambda token_id: () if token_id is None else (token_id,)
    if has_encoder:
        return PromptAffixes((), ids(tokenizer.eos_id))
    return PromptAffixes(ids(tokenizer.bos_id) if config["data"]["add_bos"] else (), ())


class TextReader(NamedTuple):
    """Reads texts as a run does, without a task or a chat template."""

    tokenizer: Tokenizer
    affixes: PromptAffixes
    reads_special: bool  # A text that spells a special token means it, as in `transformers`.
    has_encoder: bool  # An encoder reads the text, and a decoder goes on from nothing.

    def ids(self, text: str) -> list[int]:
        """Gives the tokens of a text alone."""
        if self.reads_special:
            return self.tokenizer.encode_written(text).ids.tolist()
        return self.tokenizer.encode_batch([text])[0].tolist()

    def prompt_ids(self, text: str) -> list[int]:
        """Gives the tokens of a text with what stands around it."""
        return self.affixes.around(self.ids(text))

    def pair_ids(self, context: str, text: str) -> tuple[list[int], list[int]]:
        """Gives the tokens of a context, and of the text behind it, which gets its last spaces."""
        stripped = context.rstrip()  # A piece holds the space before a word, not the one behind.
        text = context.removeprefix(stripped) + text
        before = self.prompt_ids(stripped)
        if self.has_encoder:
            return before, self.ids(text)
        # Of the two as one text, since pieces may differ where one begins.
        return before, self.prompt_ids(stripped + text)[len(before) :]

    @property
    def prefix_id(self) -> int | None:
        """Gives the token that a text begins with where nothing precedes it."""
        bos = self.tokenizer.bos_id
        return self.tokenizer.eos_id if bos is None else bos


def reader_of(run: Run) -> TextReader:
    """Makes the reader of a run's texts; see `affixes_of`."""
    has_encoder = family_named(run.config["model"]["name"]).architecture == "encoder_decoder"
    # Not where it was pretrained here, on text in which special tokens were text.
    reads_special = run.config["experiment"] != "pretrain"
    affixes = affixes_of(run.config, run.tokenizer)
    return TextReader(run.tokenizer, affixes, reads_special, has_encoder)


def frames_of(loaded: Run) -> tuple[framing.Frame, framing.Frame] | None:
    """Finds what a run was trained to see around one text, and around two.

    None for what its tokenizer has.
    """
    config, tokenizer = loaded.config, loaded.tokenizer
    if config["experiment"] == "convert":
        return None
    if isinstance(loaded, task_model.SavedTaskModel):
        if isinstance(loaded.task, language.Chat):
            return None  # A template writes all that stands around its messages.
        if not isinstance(loaded.task, language.Seq2Seq):
            return tokenizer.frame(1), tokenizer.frame(2)
    ids = lambda token_id, wanted: (token_id,) if wanted and token_id is not None else ()
    architecture = family_named(config["model"]["name"]).architecture
    adds_bos = adds_eos = True  # As tasks do.
    if config["experiment"] == "pretrain":
        adds_bos, adds_eos = config["data"]["add_bos"], config["data"]["add_eos"]
    start = ids(tokenizer.bos_id, adds_bos and architecture != "encoder_decoder")
    # Behind a decoder's prompt stands what it writes, and no end.
    end = ids(tokenizer.eos_id, adds_eos and architecture != "decoder")
    return framing.around(start, end, 1), framing.around(start, end, 2)


def chat_template(loaded: Run) -> ChatTemplate | None:
    """Finds the chat template of a run, or of a folder of `transformers`, if it has one."""
    if isinstance(loaded, task_model.SavedTaskModel):
        return loaded.task.template if isinstance(loaded.task, language.Chat) else None
    found = template_files.read(loaded.folder)
    if found is None or "default" not in found.sources:  # Others are for tools or retrieval.
        return None
    return ChatTemplate(found.sources, loaded.tokenizer, origin=found.origin)


def stops(tokenizer: Tokenizer, template: ChatTemplate | None) -> Stops:
    """Lists what ends a text: the tokenizer's stops, and the template's end of an answer."""
    if template is None:
        return Stops(tokenizer.stop_ids, ())
    token_id, text = template.end
    ids = [*tokenizer.stop_ids, *[token_id] * (token_id is not None)]
    return Stops(tuple(dict.fromkeys(ids)), (text,) * bool(text))
