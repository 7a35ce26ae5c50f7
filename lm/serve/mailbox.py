"""Brings what the service's thread tells into the loop that answers, and sorts it by choice."""

import asyncio
import collections
import contextlib
import dataclasses
from collections.abc import Callable, Sequence

from lm.generation.requests import Event, FinishEvent, PromptEvent, TokenEvent

Numbered = tuple[int, Event]  # With the index of the request that it belongs to.


class Mailbox:
    """Collects events of several requests; `emitter` is for their thread, all else for the loop."""

    def __init__(self, num_choices: int):
        self._num_open = num_choices
        self._loop = asyncio.get_running_loop()
        self._events: collections.deque[Numbered] = collections.deque()
        self._filled = asyncio.Event()

    def emitter(self, request: int) -> Callable[[Event], None]:
        """Makes the function that the service calls with the events of a request."""

        def emit(event: Event) -> None:
            self._events.append((request, event))
            # One call for all that comes before the loop gets to it.
            if len(self._events) == 1:
                with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits.
                    self._loop.call_soon_threadsafe(self._filled.set)

        return emit

    @property
    def is_done(self) -> bool:
        """Whether every choice has ended, and its end was taken."""
        return not self._num_open

    async def take(self) -> list[Numbered]:
        """Waits for events, and returns all that are there, in their order; there may be none."""
        await self._filled.wait()
        self._filled.clear()
        taken = []
        while self._events:  # To the end: what comes in between would wake nobody.
            taken.append(self._events.popleft())
        self._num_open -= sum(isinstance(event, FinishEvent) for _, event in taken)
        return taken


@dataclasses.dataclass
class Delta:
    """What has come of a choice since the last time.

    prompt: what was told of its prompt, if that was asked for.
    reason: why it ended; None while it has not.
    end: the token that ended it by its id, if one did.
    """

    prompt: PromptEvent | None = None
    text: str = ""
    tokens: list[TokenEvent] = dataclasses.field(default_factory=list)
    reason: str | None = None
    end: TokenEvent | None = None


class Sorter:
    """Sorts events into what each choice of each request has got since the last call."""

    def __init__(self):
        self._prompts: dict[int, PromptEvent] = {}

    def sort(self, events: Sequence[Numbered]) -> dict[tuple[int, int], Delta]:
        """Returns deltas by request and choice."""
        deltas: dict[tuple[int, int], Delta] = {}
        for request, event in events:
            if isinstance(event, PromptEvent):
                self._prompts[request] = event
                continue
            at = request, event.choice
            delta = deltas.setdefault(at, Delta(prompt=self._prompts.get(request)))
            delta.text += event.text
            if isinstance(event, TokenEvent):
                delta.tokens.append(event)
            else:
                delta.reason, delta.end = event.reason, event.token
        return deltas
