"""Holds a model that is served, and says how it reads prompts and how much room they have."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax

from lm.chat.chat_template import ChatTemplate
from lm.data.records import Record
from lm.generation import ending
from lm.generation.requests import GenerationRequest
from lm.inference import prompting
from lm.loading.run import Run
from lm.serve.batching import Batches
from lm.serve.refusal import Refusal
from lm.tokenizers.tokenizers import Tokenizer

_T = TypeVar("_T")


class Handle(Protocol):
    """A request that the service has taken."""

    def cancel(self) -> None:
        """Ends it within a step; nothing where it has ended."""


class Service(Protocol):
    """What writes; see `lm.generation.requests`."""

    def submit(self, request: GenerationRequest, emit: Any) -> Handle:
        """Takes a request."""

    def warm(self) -> None:
        """Compiles what can occur; called before there are requests."""

    def stats(self) -> dict[str, Any]:
        """Counts what it does."""

    def drain(self, seconds: float) -> None:
        """Takes no more, and ends what is left after so long."""

    def close(self) -> None:
        """Ends all."""


@dataclasses.dataclass(frozen=True)
class ServedEmbedder:
    """Makes vectors of texts.

    Args:
      ids: (what errors call a text, the text) -> its tokens; see `Embedder.ids`.
      batches: tokens of texts -> vectors.
    """

    ids: Callable[[str, str], list[int]]
    batches: Batches


@dataclasses.dataclass(frozen=True)
class ServedTask:
    """Predicts what the model was fine-tuned for.

    Args:
      kind: of the task.
      from_text: (name, text) -> a record; see `Task.from_text`.
      batches: records -> a `Predicted` of each.
    """

    kind: str
    from_text: Callable[[str, str], Record]
    batches: Batches


@dataclasses.dataclass(frozen=True)
class ServedModel:
    """A run, or a folder of `transformers`, under a name.

    Args:
      name: that clients call it by.
      run: of `lm.load`.
      service: writes; None where the model does not.
      max_len: the most tokens of a prompt and what is written behind it.
      max_prompts: the most that one request may have.
      created: when it was opened, in seconds of Unix time.
      embedder, task: None where it has none.
    """

    name: str
    run: Run
    service: Service | None
    max_len: int
    max_prompts: int
    created: int
    embedder: ServedEmbedder | None = None
    task: ServedTask | None = None

    @property
    def tokenizer(self) -> Tokenizer:
        """Gives the run's tokenizer."""
        return self.run.tokenizer

    @functools.cached_property
    def workers(self) -> dict[str, Service | Batches]:
        """Gives what works for it, by what that does; all of them are drained and closed alike."""
        found: dict[str, Service | Batches] = {}
        if self.service is not None:
            found["writes"] = self.service
        if self.task is not None:
            found["predicts"] = self.task.batches
        if self.embedder is not None:
            found["embeds"] = self.embedder.batches
        return found

    @functools.cached_property
    def weight_bytes(self) -> int:
        """Says what the parameters take, over all devices that hold a part of them once."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.run.params))

    @functools.cached_property
    def reader(self) -> prompting.TextReader:
        """Reads texts that are gone on from, as `experiments/harness.py` does."""
        return prompting.reader_of(self.run)

    @functools.cached_property
    def template(self) -> ChatTemplate | None:
        """Lays conversations out; None where there is no chat template."""
        return prompting.chat_template(self.run)

    def stops(self, strings: Sequence[str], template: ChatTemplate | None) -> ending.Stops:
        """Lists what ends a text, or an answer by the template, besides these strings."""
        usual = prompting.stops(self.tokenizer, template)
        return ending.stops(self.tokenizer, usual.ids, [*usual.strings, *strings])

    def num_new(self, num_prompt: int, asked: int | None, usual: int | None, param: str) -> int:
        """Returns how many tokens may be written behind a prompt.

        Args:
          num_prompt: tokens of the prompt.
          asked: how many the client wants, if it says so.
          usual: otherwise at most so many; None for all that there is room for.
          param: the field that says it, for the error.

        Raises:
          Refusal: that is more than there is room for.
        """
        # An encoder reads the prompt, and a decoder writes into positions of its own.
        room = self.max_len - (0 if self.reader.has_encoder else num_prompt)
        least = 1 if asked is None else asked
        if num_prompt > self.max_len or least > room:
            raise Refusal(
                f"this model's context is {self.max_len} tokens, and {num_prompt + least} were "
                f"asked for: {num_prompt} of the prompt, and {least} to write; shorten the prompt, "
                f"or lower {param}",
                param=param if asked else None,
                code="context_length_exceeded",
            )
        return asked if asked is not None else min(room, usual or room)


def needs(model: ServedModel, part: _T | None, says: str) -> _T:
    """Returns a part that a model may lack; raises Refusal where it does."""
    if part is None:
        raise Refusal(f"{model.name} {says}", param="model", code="model_not_supported")
    return part
