"""A server in a process of its own, what clients ask of it, and what it holds meanwhile."""

import http.client
import json
import pathlib
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.faults.commands import ROOT
from lm.system import supervisor

_SECONDS = 120  # Any answer has come by then.


class Serving:
    """Starts configs/serve.py with these settings; what it logs goes to files in a folder.

    Args:
      folder: of the logs, and where the process works.
      key: that guards it; it is in `settings["key_file"]`.
      settings: of the config.
    """

    def __init__(self, folder: pathlib.Path, key: str, **settings: Any):
        self.logs = folder / "logs"
        self.logs.mkdir()
        self._key = key
        flags = [f"--config.{name}={value}" for name, value in settings.items()]
        arguments = ["--config=configs/serve.py", *flags, f"--workdir={folder}/workdir"]
        command = [sys.executable, "launch.py", *arguments]
        self.process = subprocess.Popen(
            supervisor.dying_with_this(command, ()),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=(self.logs / "stderr").open("w"),
            text=True,
        )
        self.said = self.process.stdout.readline()
        found = re.search(r"ready at http://127\.0\.0\.1:(\d+)/v1", self.said)
        if found is None:
            raise RuntimeError(f"no server: {(self.logs / 'stderr').read_text()[-2000:]}")
        self.port = int(found[1])

    def ask(self, path: str, body: Any = None) -> http.client.HTTPConnection:
        """Sends a request; a body is sent as it is, or as JSON; None: a GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_SECONDS)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        data = body if isinstance(body, bytes | None) else json.dumps(body)
        connection.request("GET" if body is None else "POST", path, data, headers)
        return connection

    def answer(self, path: str, body: Any = None) -> tuple[int, bytes]:
        """Sends a request, and returns the status and body of its answer."""
        connection = self.ask(path, body)
        try:
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def metric(self, name: str) -> float:
        """Adds the values of a metric up, over its labels."""
        text = self.answer("/metrics")[1].decode()
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M)))

    def held(self) -> dict[str, int]:
        """Counts what the process holds: file descriptors, threads and tasks, and megabytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        number = lambda name: int(re.search(rf"^{name}:\s+(\d+)", status, re.M)[1])
        return {
            "file descriptors": len(list(pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir())),
            "threads": number("Threads"),
            "tasks": int(self.metric("lm_tasks")),
            "MB": number("VmRSS") // 1024,
        }


def at_once(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Calls `work` on all items in threads of their own; returns what it gives, in their order."""
    items = list(items)
    found: list[Any] = [None] * len(items)

    def one(i: int) -> None:
        found[i] = work(items[i])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def events(data: bytes) -> Sequence[Any]:
    """Reads the events of a stream; the last is "[DONE]" in one that is whole."""
    lines = filter(None, data.decode().split("\n\n"))
    found = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    return ["[DONE]" if one == "[DONE]" else json.loads(one) for one in found]
