"""Stands for the service that writes, with texts known beforehand, and for a model beside it.

Run as a program it serves, for tests of signals: arguments are a file for the address, seconds of a
step, seconds to drain in, and why texts end.
"""

import pathlib
import socket
import sys
import threading
import time
import types

from lm.generation.requests import FinishEvent, NotServing, PromptEvent, QueueFull, TokenEvent
from lm.serve import access, app, metrics, server
from lm.serve.served_model import ServedModel
from lm.tokenizers.tokenizers import ByteTokenizer

TURNS = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ pad_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TEXT = "the thing, 北京 and 👋🏽"
LOGPROB = -0.25


class _Task:
    def __init__(self, request, emit):
        self.request, self.emit = request, emit
        self.at, self.is_cancelled = 0, False
        self.open = list(range(request.num_choices))

    def cancel(self):
        self.is_cancelled = True


class FakeService:
    """Writes TEXT of bytes as tokens, a token of each request a step; a text given as `seed` 1 is
    upper case.

    Args:
      step_seconds: between two steps.
      slots: requests at once; max_waiting: others.
      reason: of texts that no stop ends; where it is "error", after three tokens.
    """

    def __init__(self, step_seconds=0.0, slots=2, max_waiting=8, reason="length"):
        self.tokenizer = ByteTokenizer()
        self.step_seconds, self.slots, self.max_waiting = step_seconds, slots, max_waiting
        self.reason, self.num_steps, self.asked = reason, 0, []
        self._tasks, self._ends_at, self._is_open = [], None, True
        self.takes = True
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def submit(self, request, emit):
        with self._changed:
            if not self.takes:
                raise NotServing("it has failed")
            if len(self._tasks) >= self.slots + self.max_waiting:
                raise QueueFull(2.0)
            self._tasks.append(task := _Task(request, emit))
            self.asked.append(request)
            self._changed.notify_all()
        return task

    def stats(self):
        with self._changed:
            num = len(self._tasks)
        active = min(num, self.slots)
        return {
            "waiting": num - active,
            "active": active,
            "slots": self.slots,
            "steps": self.num_steps,
            "seconds": 0.5,
            "cache_bytes": 1000,
        }

    def drain(self, seconds):
        with self._changed:
            self._ends_at = time.monotonic() + seconds
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._tasks)

    def close(self):
        with self._changed:
            self._is_open = False
            self._changed.notify_all()
        self._thread.join()

    def _run(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._tasks or not self._is_open)
                if not self._is_open:
                    for task in self._tasks:
                        self._finish(task, "cancelled")
                    return
                is_over = self._ends_at is not None and time.monotonic() > self._ends_at
                self._tasks = [task for task in self._tasks if not task.is_cancelled]
                for task in list(self._tasks) if is_over else self._tasks[: self.slots]:
                    if is_over:
                        self._finish(task, "length")
                        self._tasks.remove(task)
                    elif self._step(task):
                        self._tasks.remove(task)
                self.num_steps += 1
                self._changed.notify_all()
            time.sleep(self.step_seconds)

    def _finish(self, task, reason):
        for choice in task.open:
            task.emit(FinishEvent(choice, "", reason))

    def _step(self, task):
        """Emits the next token of each choice; whether that was the last."""
        request = task.request
        if task.at == 0 and request.echo_logprobs:
            num = len(request.prompt)
            # Of an answer that ends in "b" alone the last token is the likelier.
            last = LOGPROB if request.prompt[-1] == ord("b") + 3 else LOGPROB - 1
            logprobs = (None, *[LOGPROB] * (num - 2), last)[:num]
            tops = ((), *[((5, -0.125),)] * (num - 1))
            task.emit(PromptEvent(logprobs, tops))
        text = TEXT.upper() if request.sampling.seed == 1 else TEXT
        ends = [text.find(stop) for stop in request.stops if stop in text]
        end = min(ends, default=len(text))
        raw = text.encode()
        num = min(len(raw) if not ends else len(text[:end].encode()) + 1, request.max_new_tokens)
        if task.at >= num or (self.reason == "error" and task.at == 3):
            reason = "stop" if ends and num < request.max_new_tokens + 1 else self.reason
            self._finish(task, reason)
            return True
        before, after = (raw[:i].decode(errors="ignore")[:end] for i in (task.at, task.at + 1))
        token = raw[task.at] + 3
        top = tuple((token + i, LOGPROB - i) for i in range(request.sampling.num_logprobs))
        for choice in task.open:
            event = TokenEvent(choice, token, after[len(before) :], LOGPROB, top)
            task.emit(event)
        task.at += 1
        return False


def make_model(folder, service, name="fake", max_len=200, template=TURNS):
    """A model under this name, whose tokens are bytes; `folder` is written to."""
    folder.mkdir(exist_ok=True)
    if template:
        (folder / "chat_template.jinja").write_text(template)
    config = {"experiment": "pretrain", "model": {"name": "gpt2"}, "data": {"add_bos": True}}
    run = types.SimpleNamespace(folder=folder, config=config, tokenizer=service.tokenizer)
    return ServedModel(name, run, service, max_len, service.max_waiting, 1_700_000_000)


def make_app(
    models, *, key=None, host="127.0.0.1", names=(), max_body_bytes=20_000, say=lambda line: None
):
    """The application that serves these."""
    allowed = access.Access(key, host, names)
    return app.App(models, allowed, metrics.Metrics(), max_body_bytes=max_body_bytes, say=say)


class Served:
    """An application that is served by a thread, at a free port."""

    def __init__(self, application, max_connections=512):
        taken = server.bind("127.0.0.1", 0)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # Of connections: little.
        self.url = server.address_of(taken)
        self.port = taken.getsockname()[1]
        self._server = server.make(application, max_connections=max_connections)
        self._thread = threading.Thread(target=self._server.run, args=([taken],))

    @property
    def connections(self):
        return self._server.server_state.connections

    def __enter__(self):
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()


def main(address_file, step_seconds, drain_seconds, reason):
    service = FakeService(step_seconds=float(step_seconds), reason=reason)
    model = make_model(pathlib.Path(address_file).parent / "model", service)
    taken = server.bind("127.0.0.1", 0)
    say = lambda line: print(line, file=sys.stderr, flush=True)
    return server.serve(
        make_app([model], say=say),
        [service],
        taken,
        max_connections=512,
        drain_seconds=float(drain_seconds),
        on_ready=lambda: pathlib.Path(address_file).write_text(server.address_of(taken)),
        say=say,
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
