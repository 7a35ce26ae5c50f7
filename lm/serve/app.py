"""Answers HTTP: routes, what guards them, and what is logged of each request."""

import asyncio
import concurrent.futures
import re
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from lm.generation.requests import NotServing, QueueFull
from lm.serve import chat, completions, embeddings, fields, page, predictions
from lm.serve.access import Access
from lm.serve.answering import Answer, ClientGone, Failed, queue_full, unless_gone
from lm.serve.computation import Computation
from lm.serve.metrics import Metrics, Reading
from lm.serve.refusal import Refusal
from lm.serve.served_model import ServedModel

_BODY_SECONDS = 60.0
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_UNGUARDED = ("/health", "/")  # The page holds no secret, and asks for the key itself.
_LEFT = 499  # What logs call a request whose client has left.

Reader = Callable[[Mapping[str, Any], ServedModel], Any]  # -> Work or Computation.


class App:
    """An ASGI application.

    Args:
      models: that are served; the first is meant where a request names none.
      access: says who may ask.
      metrics: count what is done.
      max_body_bytes: of a request.
      say: logs a line.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        access: Access,
        metrics: Metrics,
        *,
        max_body_bytes: int,
        say: Callable[[str], None],
    ):
        self.is_draining = False
        self.has_failed = asyncio.Event()  # A service cannot go on, and others must take over.
        self._models = {model.name: model for model in models}
        self._access, self._metrics, self._say = access, metrics, say
        self._max_body_bytes = max_body_bytes
        num_tasks = lambda: {(): len(asyncio.all_tasks())}
        metrics.add("lm_tasks", "Coroutines under way.", Reading("gauge", num_tasks))
        # Tokenizers work for long on long texts, which must hold up no stream.
        self._readers = concurrent.futures.ThreadPoolExecutor(1, "prompts")
        writing = {"/v1/completions": completions.read, "/v1/chat/completions": chat.read}
        computing = {"/v1/embeddings": embeddings.read, "/v1/predict": predictions.reader(None)}
        computing |= {f"/v1/{name}": predictions.reader(name) for name in predictions.TASKS}
        gets = {
            "/": self._page,
            "/health": self._health,
            "/metrics": self._show_metrics,
            "/v1/models": self._list,
            "/v1/models/{name:path}": self._show,
        }
        routes = [Route(path, show, methods=["GET"]) for path, show in gets.items()]
        for path, read in writing.items():
            routes.append(Route(path, self._writes(read), methods=["POST"]))
        for path, read in computing.items():
            routes.append(Route(path, self._computes(read), methods=["POST"]))
        self._router = Router(routes, default=self._unknown, redirect_slashes=False)
        self._paths = {*writing, *computing, *gets}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, request = time.monotonic(), Request(scope, receive)
        given = request.headers.get("x-request-id", "")
        request_id = given if _ID.fullmatch(given) else uuid.uuid4().hex
        scope |= {"app": self, "request_id": request_id, "facts": {}}
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message["headers"],
                    (b"x-request-id", request_id.encode()),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        try:
            await self._answer(scope, receive, send_with_id)
        except (ClientGone, ClientDisconnect):
            status = _LEFT
        except Exception as error:  # A bug: its message may quote the request, and is not logged.
            places = traceback.format_tb(error.__traceback__)
            self._say(f"error id={request_id} {type(error).__name__}\n{''.join(places)}")
            if not status:
                refusal = Refusal("the server failed; its log has more", status=500, code="failed")
                await _refuse(refusal)(scope, receive, send_with_id)
        finally:
            self._log(scope, status, time.monotonic() - began)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            path, headers = scope["path"], Request(scope).headers
            self._access.check(headers, needs_key=path not in _UNGUARDED)
            if self.is_draining and path.startswith("/v1/"):
                raise Refusal(
                    "the server is about to end, and takes no more requests",
                    status=503,
                    code="draining",
                    headers={"Retry-After": "5"},
                )
            await self._router(scope, receive, send)
        except Refusal as refusal:
            await _refuse(refusal)(scope, receive, send)
        except HTTPException as error:
            allowed = (error.headers or {}).get("Allow", "another method")
            refusal = Refusal(
                f"{scope['method']} is not for this path; use {allowed}",
                status=error.status_code,
                code="method_not_allowed",
                headers=dict(error.headers or {}),
            )
            await _refuse(refusal)(scope, receive, send)
        except Failed as error:
            status = 503 if self.is_draining else 500
            refusal = Refusal(str(error), status=status, code="failed")
            await _refuse(refusal)(scope, receive, send)

    def _log(self, scope: Scope, status: int, seconds: float) -> None:
        # Only paths that there are: others may hold anything.
        path = scope["path"] if scope["path"] in self._paths else "other"
        if scope["path"].startswith("/v1/models/"):
            path = "/v1/models/{name}"
        self._metrics.requests.add(path=path, status=str(status))
        self._metrics.whole.observe(seconds)
        facts = {"id": scope["request_id"], **scope["facts"], "seconds": seconds}
        shown = (f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in facts.items())
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self._say(f"{stamp} {status} {scope['method'][:10]} {path} {' '.join(shown)}")

    def _writes(self, read: Reader) -> Callable[[Request], Any]:
        """Makes the endpoint of requests that a reader turns into work."""

        async def endpoint(request: Request) -> Response:
            work = await self._asked(read, request)
            scope = request.scope
            facts, name = scope["facts"], scope["request_id"]
            answer = Answer(work, name, self._metrics, facts, self._fail)
            return await answer.respond(request.receive)

        return endpoint

    def _computes(self, read: Reader) -> Callable[[Request], Any]:
        """Makes the endpoint of requests that are answered at once."""

        async def endpoint(request: Request) -> Response:
            asked: Computation = await self._asked(read, request)
            facts = {"model": asked.model.name, "items": len(asked.items)}
            request.scope["facts"].update(facts)
            self._metrics.tokens.add(asked.num_prompt, kind="prompt")
            try:
                future = asked.batches.submit(asked.items)
                results = await unless_gone(request.receive, _result(future))
            except QueueFull as full:
                raise queue_full(full) from None
            except NotServing:
                raise Failed("the model takes no more requests") from None
            except ClientGone:
                self._metrics.cancelled.add()
                raise
            return JSONResponse(asked.answer(results))

        return endpoint

    async def _asked(self, read: Reader, request: Request) -> Any:
        """Reads the body of a request, in the thread that holds up no stream."""
        body = await self._body(request)
        reading = self._readers.submit(lambda: self._work(read, body))
        return await unless_gone(request.receive, _result(reading))

    def _fail(self) -> None:
        if not self.is_draining:  # When services take nothing any more.
            self.has_failed.set()

    def _work(self, read: Reader, body: bytes) -> Any:
        values = fields.read_object(body)
        return read(values, self._model(values.get("model")))

    def _model(self, name: Any) -> ServedModel:
        if name is None:
            if len(self._models) > 1:
                raise Refusal(
                    f"model is missing; choose {', '.join(self._models)}",
                    param="model",
                    code="missing_required_parameter",
                )
            return next(iter(self._models.values()))
        name = fields.text("model", name)
        if name not in self._models:
            raise Refusal(
                f"model={name!r:.80} is not served here; choose {', '.join(self._models)}",
                status=404,
                param="model",
                code="model_not_found",
            )
        return self._models[name]

    async def _body(self, request: Request) -> bytes:
        """Reads the body of a request, of JSON and not too long."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":  # Which no page of another site may send.
            raise Refusal(
                "the body must be JSON; send the header Content-Type: application/json",
                status=415,
                code="unsupported_media_type",
            )
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Refusal("packed bodies are not read", status=415, code="unsupported_media_type")
        too_long = Refusal(
            f"the body has more than {self._max_body_bytes:,} bytes",
            status=413,
            code="body_too_large",
        )
        said = request.headers.get("content-length", "0")
        if said.isdigit() and int(said[:20]) > self._max_body_bytes:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > self._max_body_bytes:
                        raise too_long
        except TimeoutError:
            raise Refusal(
                f"the body did not come within {_BODY_SECONDS:.0f} s", status=408, code="timeout"
            ) from None
        return bytes(body)

    async def _health(self, request: Request) -> Response:
        if self.is_draining:
            return JSONResponse({"status": "draining"}, 503)
        return JSONResponse({"status": "ok"})

    async def _page(self, request: Request) -> Response:
        return page.response()

    async def _show_metrics(self, request: Request) -> Response:
        return PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _list(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": list(map(_shown, self._models.values()))})

    async def _show(self, request: Request) -> Response:
        return JSONResponse(_shown(self._model(request.path_params["name"])))

    async def _unknown(self, scope: Scope, receive: Receive, send: Send) -> None:
        paths = ", ".join(sorted(self._paths))
        raise Refusal(f"there is no such path; there are {paths}", status=404, code="unknown_url")


def print_line(line: str) -> None:
    """Logs a line to standard error."""
    print(line, file=sys.stderr, flush=True)


async def _result(future: concurrent.futures.Future) -> Any:
    return await asyncio.wrap_future(future)


def _shown(model: ServedModel) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "lm",
        "max_model_len": model.max_len,
        "has_chat": model.service is not None and model.template is not None,
        "writes": model.service is not None,
        "embeds": model.embedder is not None,
        "task": model.task and model.task.kind,
    }


def _refuse(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, refusal.status, refusal.headers)
