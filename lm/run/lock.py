"""Locks a folder, or a part of it, for one process at a time, and says which one that is."""

import contextlib
import fcntl
import os
import pathlib
import re
import socket
import time
from collections.abc import Iterator

from lm.errors import UserError
from lm.system import faults

NAME = ".lock"
_ATTEMPTS, _WAIT_SECONDS = 10, 0.05  # Who only looks whether it is taken, holds it for a moment.


@contextlib.contextmanager
def held(
    folder: pathlib.Path, name: str = "", *, file_name: str = NAME, wait: bool = False
) -> Iterator[None]:
    """Keeps other processes out of a folder, which exists, while the block runs.

    Args:
      folder: holds the file that is locked.
      name: of what is locked, in errors; by default --workdir.
      file_name: another one than NAME for a part of the folder.
      wait: until whoever has the lock lets go of it, in place of an error.

    Raises:
      UserError: another process has the lock, and is named; or the file cannot be opened.
    """
    # The kernel lets go of the lock however a process ends, so that none is ever stale. Other hosts
    # are kept out where the file system passes flock on to them: docs/sweeps.md says which do.
    path = folder / file_name
    if not path.is_file() and (path.is_symlink() or path.exists()):
        raise UserError(f"{path} is no file, but a folder, a pipe or a link to nothing; remove it")
    try:
        opened = path.open("a+")
    except PermissionError as error:
        raise UserError(f"{path}: {error.strerror}; make it a file of yours") from None
    with opened as file:
        if wait:
            fcntl.flock(file, fcntl.LOCK_EX)
        else:
            _take(name or f"--workdir={folder}", file)
        file.truncate(0)  # What a dead process left.
        with faults.naming(path):  # Past the buffer, which would fail again where the file closes.
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
        try:
            yield
        finally:
            file.truncate(0)  # For whoever looks from a host that the lock does not reach.


def is_held(folder: pathlib.Path) -> bool | None:
    """Whether a process has the lock of a folder; None where one on another host may have it."""
    path = folder / NAME
    if not path.is_file():  # A pipe would be waited for.
        return False
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            holder = re.fullmatch(r"process \d+ on (.+)", file.read().strip())
    except BlockingIOError:
        return True
    except OSError:
        return False
    # Free as seen from here. Where another host is named, its process died, or its lock does not
    # reach this one.
    return False if holder is None or holder[1] == socket.gethostname() else None


def _take(name: str, file) -> None:
    for _ in range(_ATTEMPTS):
        try:
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_WAIT_SECONDS)
    file.seek(0)
    raise UserError(f"{name} is in use by {file.read().strip()}; wait, or name another")
