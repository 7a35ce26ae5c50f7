"""Calls of code that may take any time and memory, in a process that is ended where it does."""

import contextlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

from lm.system import supervisor, workers

# A process that gets no processor is no slow one; but neither is one waited for without end.
_WALL_FACTOR, _LEAST_WALL_SECONDS = 20, 60.0


class Exceeded(Exception):
    """A call was ended; `what` it exceeded is "time" or "memory"."""

    def __init__(self, what: str):
        super().__init__(what)
        self.what = what


class BoundedFunction:
    """A function of a module, each call of which may take so much and no more.

    Args:
      function: is imported by its name in the other process; its arguments and results are sent.
      max_seconds: of processor time a call, so that a busy machine gives the same results.
      max_memory_bytes: that the process may have mapped.
    """

    def __init__(
        self, function: Callable[..., Any], *, max_seconds: float, max_memory_bytes: int
    ) -> None:
        self._function, self._max_seconds = function, max_seconds
        self._max_memory_bytes = max_memory_bytes
        self._process, self._pipe = None, None

    def __call__(self, *args: Any) -> Any:
        """Calls it.

        Raises:
          Exceeded: the call took too much.
        """
        if self._process is None:
            self._start()
        try:
            self._pipe.send(args)
            if not self._pipe.poll(max(_LEAST_WALL_SECONDS, _WALL_FACTOR * self._max_seconds)):
                self.close()
                raise Exceeded("time")
            result, error = self._pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self._process.join()
            code = self._process.exitcode
            self.close()
            # What else ends it is code that could not go on without memory.
            raise Exceeded("time" if code == -signal.SIGPROF else "memory") from None
        if error == "memory":
            self.close()
            raise Exceeded("memory")
        if error is not None:
            raise error
        return result

    def close(self) -> None:
        """Ends the process; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(os.getpid(), theirs, self._function, self._max_seconds, self._max_memory_bytes),
            daemon=True,  # So that a parent that ends does not wait for it.
        )
        with workers.without_main():
            self._process.start()
        theirs.close()


def _serve(parent: int, pipe, function, max_seconds: float, max_memory_bytes: int) -> None:
    supervisor.die_with(parent)
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (max_memory_bytes, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with contextlib.suppress(EOFError):
        while True:
            args = pipe.recv()
            # By default its signal ends the process, also inside of code that is not Python's.
            signal.setitimer(signal.ITIMER_PROF, max_seconds)
            try:
                answer = function(*args), None
            except MemoryError:
                answer = None, "memory"
            except Exception as error:
                answer = None, error
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(answer)
