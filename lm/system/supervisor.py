"""Has a process watched by another, which says in a line what ended it.

Where a peer is lost or does not come, XLA ends a process from within, by SIGABRT behind a stack
trace, and no code of Python's runs any more in it.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Collection

STOPPED = 75  # EX_TEMPFAIL: a scheduler that sees it starts the same command again.
LOST = STOPPED  # The same command goes on, once all are started again.
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it.
_PIPE = "LM_WATCHED_PIPE"  # In the environment of a process that is watched.


def is_watched() -> bool:
    """Whether another process explains the end of this one; then it also dies with that one."""
    if _PIPE not in os.environ:
        return False
    _ask_to_die()
    return True


def dying_with_this(command: list[str], cores: Collection[int]) -> list[str]:
    """Makes of a command one that is killed when this process ends, however it does.

    It may use these `cores` of the CPU; all where there are none.
    """
    # By a program of its own, this file: between fork and exec, code may deadlock under threads.
    listed = ",".join(map(str, sorted(cores)))
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), listed, *command]


def die_with(parent: int) -> None:
    """Has this process killed when `parent`, which started it, ends; at once if it has ended."""
    _ask_to_die()
    # Asked afterwards: a parent that ended before sends no signal any more.
    if _PRCTL is not None and os.getppid() != parent:
        os._exit(1)


def _become(parent: str, cores: str, *command: str) -> None:
    die_with(int(parent))
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    os.execv(command[0], command)


def _ask_to_die() -> None:
    if _PRCTL is not None:
        _PRCTL(1, signal.SIGKILL)  # PR_SET_PDEATHSIG of <linux/prctl.h>


def note_joined() -> None:
    """Tells the watching process that the peers were there."""
    os.write(int(os.environ[_PIPE]), b"joined")


def watch(coordinator: str, connect_seconds: int) -> int:
    """Runs this very command once more, watched; returns its exit code, or `LOST`.

    SIGTERM, SIGHUP and ctrl-C are passed on as SIGTERM.
    """
    # Not above, since this file is also a program, which imports nothing of lm.
    from lm.system import interrupts

    reader, writer = os.pipe()
    process = subprocess.Popen(
        sys.orig_argv, env=os.environ | {_PIPE: str(writer)}, pass_fds=[writer]
    )
    os.close(writer)  # So that reading ends where the other one never writes.
    with interrupts.handled(lambda *_: process.send_signal(signal.SIGTERM)):
        code = process.wait()
    has_joined = bool(os.read(reader, 1))
    if code >= 0:
        return code
    if code != -signal.SIGABRT:
        print(f"error: the process was killed: {signal.Signals(-code).name}", file=sys.stderr)
        return 128 - code
    if has_joined:
        print(
            "error: another process was lost, or XLA failed in this one (see above); start all of "
            "them again, and they go on from the last checkpoint",
            file=sys.stderr,
        )
        return LOST
    print(
        f"error: --coordinator={coordinator}: not all processes were there within "
        f"{connect_seconds} seconds (--connect_seconds); start all of them, each with a number of "
        "its own, and check the address",
        file=sys.stderr,
    )
    return 2


if __name__ == "__main__":
    _become(*sys.argv[1:])
