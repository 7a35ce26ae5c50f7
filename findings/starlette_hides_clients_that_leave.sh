#!/bin/bash
# Guess: an endpoint that asks `await request.is_disconnected()` now and then notices a client that has left.
# Instead: behind a BaseHTTPMiddleware, be it an empty one, it never does, and works to its end.
# Versions: starlette 1.10.0, uvicorn 0.54.0, Python 3.11. Date: 2026-12-01.
# Output seen (a client leaves after 0.5 s, the work takes 3 s):
#   asks, without a middleware: noticed
#   asks, behind a middleware:  worked to its end
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q starlette==1.10.0 uvicorn==0.54.0
"$folder/venv/bin/python" - <<'PY'
import asyncio
import http.client
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route


class Empty(BaseHTTPMiddleware):
    async def dispatch(self, request, call_next):
        return await call_next(request)


def outcome(middleware):
    said = []

    async def work(request):
        for _ in range(30):
            if await request.is_disconnected():
                said.append("noticed")
                break
            await asyncio.sleep(0.1)
        else:
            said.append("worked to its end")
        return PlainTextResponse("done")

    app = Starlette(routes=[Route("/", work)], middleware=middleware)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    client = http.client.HTTPConnection(*listener.getsockname())
    client.request("GET", "/")
    time.sleep(0.5)
    client.close()
    while not said:
        time.sleep(0.05)
    server.should_exit = True
    thread.join()
    return said[0]


plain, behind = outcome([]), outcome([Middleware(Empty)])
print("asks, without a middleware:", plain)
print("asks, behind a middleware: ", behind)
assert plain == "noticed", "changed"
assert behind == "worked to its end", "changed"
PY
