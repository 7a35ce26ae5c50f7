"""The lock of a folder: one process at a time, and which one it is."""

import contextlib
import fcntl
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator

from lm.errors import UserError

NAME = ".lock"
_ATTEMPTS, _WAIT_SECONDS = 10, 0.05  # Who only looks whether it is taken, holds it for a moment.


@contextlib.contextmanager
def held(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which exists, while the block runs.

    The kernel lets go of the lock however a process ends, so that none is ever stale; what a dead
    one left in the file is overwritten. Other hosts are kept out where the file system passes
    flock on to them: docs/sweeps.md says which do.

    Raises:
      UserError: a process is in the folder, and is named; or the file cannot be opened.
    """
    try:
        opened = (folder / NAME).open("a+")
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(f"{folder / NAME}: {error.strerror}; make it a file of yours") from None
    with opened as file:
        _take(folder, file)
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # For whoever looks from a host that the lock does not reach.


def is_held(folder: pathlib.Path) -> bool | None:
    """Whether a process has the lock of a folder; None where one on another host may have it.

    That is where its name stands in the file and the lock is free as seen from here: it died, or
    its lock does not reach this host.
    """
    try:
        with (folder / NAME).open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            holder = re.fullmatch(r"process \d+ on (.+)", file.read().strip())
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False if holder is None or holder[1] == socket.gethostname() else None


def _take(folder: pathlib.Path, file) -> None:
    for _ in range(_ATTEMPTS):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_WAIT_SECONDS)
    file.seek(0)
    raise UserError(f"--workdir={folder} is in use by {file.read().strip()}; wait, or name another")
