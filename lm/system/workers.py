"""Worker processes that die with their parent and do not import its main module."""

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

from lm.errors import UserError
from lm.system import faults, supervisor


@contextlib.contextmanager
def spawned(
    num_processes: int, load: Callable[..., Any], args: tuple[Any, ...], what: str
) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Starts processes that first call `load(*args)` each; ends them with the block.

    Args:
      num_processes: how many.
      load: imported by its name in each process, so that its module should import little.
      args: of `load`.
      what: they do, for the error: "tokenized".

    Raises:
      UserError: a process was killed.
    """
    # Spawned, since to fork a process in which JAX runs its threads can deadlock.
    context = multiprocessing.get_context("spawn")
    with faults.naming("/dev/shm"):  # Where Linux keeps what processes share.
        all_started = context.Barrier(num_processes)
        pool = concurrent.futures.ProcessPoolExecutor(
            num_processes,
            mp_context=context,
            initializer=_start_in_worker,
            initargs=(os.getpid(), load, args, all_started),
        )
    with pool:
        with without_main():
            for _ in range(num_processes):  # None is idle before all have started: see the barrier.
                pool.submit(int)
        try:
            yield pool
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                f"a process that {what} was killed, as the kernel does where memory is short; "
                "free some, and run the same command again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Has processes that are spawned inside not import the caller's main module."""
    # They would import it again, and with it JAX, for seconds; and a script without
    # `if __name__ == "__main__"` would start processes without end.
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _start_in_worker(parent: int, load: Callable[..., Any], args: tuple, all_started) -> None:
    supervisor.die_with(parent)
    # These are for the parent, which ends its workers in order.
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    load(*args)
    all_started.wait()
