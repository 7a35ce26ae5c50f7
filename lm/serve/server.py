"""Listens, answers until a signal comes, and ends in order."""

import asyncio
import contextlib
import functools
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn

from lm.errors import UserError
from lm.serve import connections
from lm.serve.app import App
from lm.serve.served_model import Service
from lm.system import interrupts

_FLUSH_SECONDS = 5  # For answers that are done, to clients that read slowly.


def bind(host: str, port: int) -> socket.socket:
    """Takes an address, so that no other process can; nothing is answered there yet.

    Raises:
      UserError: there is no such host, or the port is taken, or may not be.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(address)
        except OSError:
            taken.close()
            raise
    except OSError as error:
        raise UserError(
            f"host={host}, port={port} cannot be listened at: {error.strerror}; name another"
        ) from None
    return taken


def address_of(taken: socket.socket) -> str:
    """Returns the URL of a socket."""
    host, port = taken.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    app: App,
    services: Sequence[Service],
    taken: socket.socket,
    *,
    max_connections: int,
    drain_seconds: float,
    on_ready: Callable[[], None],
    say: Callable[[str], None],
) -> int:
    """Answers at a socket until SIGTERM, SIGHUP or ctrl-C; then ends what is under way.

    What is not done within `drain_seconds` is cut, as if it had been as long as it may be; a second
    signal cuts at once. Of more than `max_connections` the last are told to come back.

    Returns:
      The exit code of a program: 0, or 1 where a service could not go on.
    """
    server = make(app, on_ready, max_connections=max_connections)
    return asyncio.run(_serve(server, app, services, taken, drain_seconds, say))


async def _serve(server, app, services, taken, drain_seconds, say) -> int:
    loop, ending = asyncio.get_running_loop(), []

    def drain(seconds: float) -> None:
        threads = [threading.Thread(target=one.drain, args=(seconds,)) for one in services]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    async def end() -> None:
        await asyncio.to_thread(drain, drain_seconds)
        server.should_exit = True

    def stop(name: str) -> None:
        if ending:
            say("cutting what is under way")
            ending.append(loop.create_task(asyncio.to_thread(drain, 0.0)))
            return
        app.is_draining = True
        say(f"{name}: ends within {drain_seconds:g} s, when what is under way is done")
        ending.append(loop.create_task(end()))

    def heard(signum, _) -> None:
        loop.call_soon_threadsafe(stop, interrupts.signal.Signals(signum).name)

    async def fail() -> None:
        await app.has_failed.wait()
        say("the model failed, and answers nothing any more; start it anew")
        await asyncio.sleep(_FLUSH_SECONDS / 10)  # Those who wait hear of it.
        server.should_exit = True

    failing = loop.create_task(fail())
    try:
        with interrupts.handled(heard):
            await server.serve(sockets=[taken])
    finally:
        failing.cancel()
        for one in services:
            await asyncio.to_thread(one.close)
    return int(app.has_failed.is_set())


def make(
    app: App, on_ready: Callable[[], None] = lambda: None, *, max_connections: int
) -> uvicorn.Server:
    """Makes a server of HTTP that says nothing by itself, and leaves signals alone."""
    config = uvicorn.Config(
        app,
        loop="asyncio",  # Whatever else is installed: what answers is what was tested.
        http=functools.partial(connections.Connection, max_connections=max_connections),
        lifespan="off",
        ws="none",
        log_config=None,
        log_level="critical",
        access_log=False,
        server_header=False,
        timeout_keep_alive=connections.IDLE_SECONDS,
        timeout_graceful_shutdown=_FLUSH_SECONDS,
    )
    return _Server(config, on_ready)


class _Server(uvicorn.Server):
    """One whose signals are ours: its own would end the process by the signal."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]):
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
