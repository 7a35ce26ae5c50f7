"""Has the service do a request's work, and sends what comes back; a client that leaves ends it."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from lm.errors import UserError
from lm.generation.requests import NotServing, QueueFull, TokenEvent
from lm.serve.mailbox import Mailbox, Numbered, Sorter
from lm.serve.metrics import Metrics
from lm.serve.refusal import Refusal
from lm.serve.work import Work

_PING_SECONDS = 15.0  # Proxies close what is silent for long.
_PING = b": ping\n\n"
_LAST = b"data: [DONE]\n\n"


class ClientGone(Exception):
    """Whoever asked has left."""


class Failed(Exception):
    """The service could not go on with a request."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Any]) -> Any:
    """Returns what the work gives; ends it, and raises ClientGone, as soon as the client leaves."""
    # Awaiting alone would not notice, and polling `is_disconnected` would notice late.
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise ClientGone
        return doing.result()
    finally:
        doing.cancel()
        leaving.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def queue_full(full: QueueFull) -> Refusal:
    """Makes the refusal of a request that finds too many before it."""
    seconds = max(1, round(full.retry_after_seconds))
    return Refusal(
        f"too many requests wait; try again in {seconds} s",
        status=429,
        code="queue_full",
        headers={"Retry-After": str(seconds)},
    )


class Answer:
    """Does the work of one request, and remembers what the log and the metrics tell of it.

    Args:
      work: to be done.
      request_id: names it.
      metrics: count it.
      facts: by name, for the log.
      on_failure: is called when the service cannot go on.
    """

    def __init__(
        self,
        work: Work,
        request_id: str,
        metrics: Metrics,
        facts: dict[str, Any],
        on_failure: Callable[[], None],
    ):
        self._work, self._metrics, self._facts = work, metrics, facts
        self._on_failure = on_failure
        self._num_new, self._reasons = 0, []
        self._began, self._first, self._last = time.monotonic(), None, None
        self._head = {
            "id": work.layout.prefix + request_id,
            "object": work.layout.chunk_kind if work.in_stream else work.layout.kind,
            "created": int(time.time()),
            "model": work.model.name,
        }
        facts |= {"model": work.model.name, "prompt": work.num_prompt}
        metrics.tokens.add(work.num_prompt, kind="prompt")

    async def respond(self, receive: Receive) -> Response:
        """Returns the whole answer, or what streams it.

        Raises:
          Refusal: the service does not take the request.
          ClientGone: the client has left before the answer was there.
        """
        # Entered before anything is sent, for a queue that is full is a status of its own.
        with contextlib.ExitStack() as stack:
            mailbox = stack.enter_context(self._submitted())
            if self._work.in_stream:
                return EventStream(self._parts(mailbox), stack.pop_all())
            return JSONResponse(await unless_gone(receive, self._whole(mailbox)))

    @contextlib.contextmanager
    def _submitted(self) -> Iterator[Mailbox]:
        """Hands the requests to the service; ends with the block what has not ended by itself."""
        requests = self._work.requests
        mailbox, handles = Mailbox(sum(one.num_choices for one in requests)), []
        try:
            for i, request in enumerate(requests):
                handles.append(self._work.model.service.submit(request, mailbox.emitter(i)))
            yield mailbox
        except QueueFull as full:
            raise queue_full(full) from None
        except NotServing:
            self._on_failure()
            raise Failed("the model takes no more requests") from None
        except UserError as error:
            raise Refusal(str(error), code="invalid_value") from None
        finally:
            for handle in handles:
                handle.cancel()
            if handles and not mailbox.is_done:
                self._metrics.cancelled.add()
            self._tell()

    async def _whole(self, mailbox: Mailbox) -> dict[str, Any]:
        events = await self._all(mailbox)
        choices = self._choices(Sorter(), events)
        choices.sort(key=lambda choice: choice["index"])
        return self._head | {"choices": choices, "usage": self._usage()}

    async def _parts(self, mailbox: Mailbox) -> AsyncIterator[bytes]:
        """Yields the events of a stream; one that fails ends with an error in place of the last."""
        work, sorter = self._work, Sorter()
        no_usage = {"usage": None} if work.has_usage else {}
        part = lambda choices, more=no_usage: _event(self._head | {"choices": choices} | more)
        openings = map(work.layout.opening, range(work.num_choices))
        for opening in filter(None, openings):
            yield part([opening])
        try:
            while not mailbox.is_done:
                if work.settle is not None:
                    groups = [await self._all(mailbox)]
                else:  # What has come together is told together, unless tokens are told.
                    events = await mailbox.take()
                    groups = [[one] for one in events] if work.layout.by_token else [events]
                for choice in (one for some in groups for one in self._choices(sorter, some)):
                    yield part([choice])
        except Failed as error:
            yield _event(Refusal(str(error), status=500, code="failed").body)
            return
        if work.has_usage:
            yield part([], {"usage": self._usage()})
        yield _LAST

    async def _all(self, mailbox: Mailbox) -> Sequence[Numbered]:
        """Waits for all events, and settles what has to be chosen."""
        events: list[Numbered] = []
        while not mailbox.is_done:
            events += await mailbox.take()
        return events if self._work.settle is None else self._work.settle(events)

    def _choices(self, sorter: Sorter, events: Sequence[Numbered]) -> list[dict[str, Any]]:
        """Lays out what has come of each choice, and counts it."""
        num_tokens = sum(isinstance(event, TokenEvent) for _, event in events)
        if num_tokens:
            self._num_new += num_tokens
            self._last = time.monotonic()
            self._first = self._first or self._last
        laid_out = []
        for (request, choice), delta in sorter.sort(events).items():
            if delta.reason not in (None, "stop", "length"):
                if delta.reason == "error":
                    self._on_failure()
                raise Failed(f"the model could not go on with this request ({delta.reason})")
            if delta.reason is not None:
                self._reasons.append(delta.reason)
            index = request * self._work.num_choices + choice
            one = self._work.layout.choice(index, request, delta, self._work.in_stream)
            if one is not None:
                laid_out.append(one)
        return laid_out

    def _usage(self) -> dict[str, int]:
        num_prompt, num_new = self._work.num_prompt, self._num_new
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_new,
            "total_tokens": num_prompt + num_new,
        }

    def _tell(self) -> None:
        """Counts what was written, and how fast."""
        self._metrics.tokens.add(self._num_new, kind="new")
        self._facts["new"] = self._num_new
        if self._reasons:
            self._facts["reasons"] = ",".join(sorted(set(self._reasons)))
        if self._first is not None:
            self._facts["first"] = self._first - self._began
            self._metrics.first_token.observe(self._first - self._began)
            if self._num_new > 1:
                mean = (self._last - self._first) / (self._num_new - 1)
                self._metrics.between_tokens.observe(mean)


class EventStream(Response):
    """Sends server-sent events as they come, with a comment now and then where none do.

    Args:
      parts: of the stream.
      stack: is closed behind the last, or when the client leaves.
    """

    def __init__(self, parts: AsyncIterator[bytes], stack: contextlib.ExitStack):
        super().__init__(None, media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["Cache-Control"] = "no-store"
        self._parts, self._stack, self._is_silent = parts, stack, True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._stack:
            await unless_gone(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        write = lambda data, more=True: send(
            {"type": "http.response.body", "body": data, "more_body": more}
        )
        pinging = asyncio.ensure_future(self._ping(write))
        try:
            async for part in self._parts:
                self._is_silent = False
                await write(part)
        finally:
            pinging.cancel()
        await write(b"", False)

    async def _ping(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            self._is_silent = True
            await asyncio.sleep(_PING_SECONDS)
            if self._is_silent:
                await write(_PING)


def _event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, allow_nan=False).encode() + b"\n\n"
