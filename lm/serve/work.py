"""Says what a request asks of the service, and how what comes back is laid out."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from lm.generation.requests import GenerationRequest
from lm.serve.mailbox import Delta, Numbered
from lm.serve.served_model import ServedModel


class Layout(Protocol):
    """Lays choices out as an endpoint has them; it keeps what a stream has to remember."""

    prefix: str  # Of the answer's id.
    kind: str  # What the answer says that it is.
    chunk_kind: str  # What a part of a stream says that it is.
    by_token: bool  # Whether a part of a stream tells of one token, for it tells how likely it was.

    def opening(self, index: int) -> dict[str, Any] | None:
        """Gives what a stream begins a choice with, if anything."""

    def choice(self, index: int, request: int, delta: Delta, in_stream: bool) -> Any:
        """Gives a choice, or what is new of it; None where a stream has nothing to tell.

        Args:
          index: of the choice, among those of all requests.
          request: the index of its request.
          delta: what is new.
          in_stream: whether this is a part of a stream.
        """


@dataclasses.dataclass(frozen=True)
class Work:
    """What a request comes to.

    Args:
      model: writes.
      requests: of each prompt one.
      layout: of the answer.
      in_stream: whether parts are sent as they come.
      has_usage: whether a stream ends with what was used.
      settle: makes of all events those that are laid out, for choices among given answers.
      num_choices: of each prompt, as they are laid out.
      num_prompt: tokens of all prompts.
    """

    model: ServedModel
    requests: Sequence[GenerationRequest]
    layout: Layout
    in_stream: bool
    has_usage: bool
    num_choices: int
    num_prompt: int
    settle: Callable[[Sequence[Numbered]], Sequence[Numbered]] | None = None
