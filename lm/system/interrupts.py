"""Handles signals that end a program: none is lost, and each ends it in order."""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

_AGAIN_SECONDS = 0.05
# SIGHUP is what the processes of a terminal or an ssh session get when it closes.
TO_STOP = (signal.SIGTERM, signal.SIGHUP)

_obeyed: set[int] = set()  # Of `TO_STOP`, those that have raised `Terminated`.

Handler = Callable[[int, FrameType | None], None]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came where nothing could be saved; `signum` says which."""

    def __init__(self, signum: int):
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def keep() -> None:
    """From here on, SIGTERM and SIGHUP raise `Terminated`, as ctrl-C raises KeyboardInterrupt.

    A second one kills at once.
    """
    # What a callback swallows of these exceptions comes once more: JAX has one that is called at
    # each garbage collection, after which a program would otherwise now and then go on.
    others = sys.unraisablehook

    def hook(unraisable):
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            signum = getattr(unraisable.exc_value, "signum", signal.SIGINT)
            # Not a thread of `threading`, whose lock the code that was interrupted may hold.
            _thread.start_new_thread(_interrupt_later, (signum,))
        else:
            others(unraisable)

    sys.unraisablehook = hook
    for signum in TO_STOP:
        if not _is_ignored(signum):
            signal.signal(signum, _terminate)


@contextlib.contextmanager
def handled(
    handler: Handler, signums: Sequence[int] = (signal.SIGINT, *TO_STOP)
) -> Iterator[dict[int, Handler]]:
    """Gives signals to a handler inside the block; yields the handlers before it."""
    # What is ignored stays so, as `nohup` has it of SIGHUP; but for ctrl-C, which a shell without a
    # terminal has its background processes ignore.
    heard = [s for s in signums if s == signal.SIGINT or not _is_ignored(s)]
    previous = {signum: signal.signal(signum, handler) for signum in heard}
    try:
        yield previous
    finally:
        for signum, one in previous.items():
            signal.signal(signum, one)


def _is_ignored(signum: int) -> bool:
    return signal.getsignal(signum) == signal.SIG_IGN


def _terminate(signum: int, _) -> None:
    if signum in _obeyed:  # The second one: the default action ends the process at once.
        signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)
    _obeyed.add(signum)
    raise Terminated(signum)


def _interrupt_later(signum: int) -> None:
    time.sleep(_AGAIN_SECONDS)
    _obeyed.discard(signum)
    # Not by `interrupt_main`, which does not wake what sleeps.
    signal.pthread_kill(threading.main_thread().ident, signum)
