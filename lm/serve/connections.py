"""Bounds connections: how many are open, and how long each may take to say what it wants, and to
read what it is told."""

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from lm.serve.refusal import Refusal

IDLE_SECONDS = 5  # Between an answer and the next request; clients open another one then.
HEAD_SECONDS = 10.0  # For a request's line and headers, from their first byte or the connection on.
UNREAD_SECONDS = 60.0  # For a client to take anything at all of what waits for it.


class Connection(H11Protocol):
    """One of uvicorn's, which leaves all bounds to a proxy.

    Args:
      max_connections: others are told to come back, and closed at once.
      given: of `H11Protocol`.
    """

    def __init__(self, *given: Any, max_connections: int, **named: Any):
        super().__init__(*given, **named)
        self._max_connections = max_connections
        self._closing_late: asyncio.TimerHandle | None = None
        self._closing_unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # `pause_writing` as soon as something waits.
        if len(self.connections) > self._max_connections:
            transport.write(_too_many())
            transport.close()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_awaiting()
        elif self._closing_late is None:  # A part of the next head.
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_awaiting()
        self._stop_writing_late()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reading()

    def resume_writing(self) -> None:
        self._stop_writing_late()
        super().resume_writing()

    def _await_head(self) -> None:
        self._closing_late = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_awaiting(self) -> None:
        if self._closing_late is not None:
            self._closing_late.cancel()
            self._closing_late = None

    def _await_reading(self) -> None:
        waiting = self.transport.get_write_buffer_size()

        def look() -> None:
            if self.transport.get_write_buffer_size() < waiting:
                self._await_reading()
            else:  # To close would be to wait until it is read.
                self.transport.abort()

        self._closing_unread = self.loop.call_later(UNREAD_SECONDS, look)

    def _stop_writing_late(self) -> None:
        if self._closing_unread is not None:
            self._closing_unread.cancel()
            self._closing_unread = None


def _too_many() -> bytes:
    refusal = Refusal("too many connections are open", status=503, code="too_many_connections")
    body = json.dumps(refusal.body).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 5\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
