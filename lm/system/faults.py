"""Says faults of the machine in a line each: full disks, files that cannot be read, no memory."""

import contextlib
import errno
import io
import os
import pathlib
from collections.abc import Iterator

from lm.errors import UserError

_AGAIN = "and run the same command again"
_REMEDIES = {
    errno.ENOSPC: f"free some space there, {_AGAIN}",
    errno.EDQUOT: f"free some of your quota there, {_AGAIN}",
    errno.EFBIG: f"raise the limit on the size of files (ulimit -f), {_AGAIN}",
    errno.EACCES: "give this user access to it, or name another",
    errno.EPERM: "give this user access to it, or name another",
    errno.EROFS: "name a place that can be written",
    errno.EMFILE: f"raise the limit on open files (ulimit -n), {_AGAIN}",
    errno.EIO: "its disk, or the way there, fails; the kernel's log (dmesg) says more",
    errno.ENOENT: "restore it, or name another",
    errno.ENOTDIR: "a file stands where a folder belongs: restore that, or name another",
}
_MEMORY = "close what else takes memory, or make the batch, the row or the model smaller"
# What libraries of C++ and Rust say in errors of their own, which are no OSError.
_IN_TEXT = {
    os.strerror(number): number
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EMFILE)
}
_MOST_CHARS = 400


def one_line(error: BaseException) -> str | None:
    """Describes an exception that the machine caused; None for any other, which is a bug."""
    text = " ".join(str(error).split())[:_MOST_CHARS]
    number = errno_of(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return f"not enough memory ({text or 'none is left'}); {_MEMORY}"
    if number is None:
        if isinstance(error, RuntimeError) and text.startswith("RESOURCE_EXHAUSTED"):
            return f"not enough memory ({text}); {_MEMORY}"  # Of XLA, about that of a device.
        return text if _is_os_error(error) and text else None
    where = getattr(error, "filename", None)  # A number where a file descriptor was given.
    reason = os.strerror(number) if where is not None else text
    said = f"the disk is full: {reason}" if number == errno.ENOSPC else reason
    if where is not None:
        said = f"{os.fsdecode(where) if isinstance(where, str | bytes) else where}: {said}"
    return f"{said}; {_REMEDIES[number]}" if number in _REMEDIES else said


def errno_of(error: BaseException) -> int | None:
    """Returns the system's number of an error, which some libraries have only in their text."""
    if _is_os_error(error) and error.errno is not None:
        return error.errno
    if isinstance(error, Exception) and not isinstance(error, UserError):
        found = (number for text, number in _IN_TEXT.items() if text in str(error))
        return next(found, None)
    return None


@contextlib.contextmanager
def naming(path: str | pathlib.Path) -> Iterator[None]:
    """Has an error of the system that is raised inside, and names no file, name this one."""
    try:
        yield
    except Exception as error:
        number = errno_of(error)
        if number is None or getattr(error, "filename", None) is not None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _is_os_error(error: BaseException) -> bool:
    # The latter says that a program asks of a file what it cannot do.
    return isinstance(error, OSError) and not isinstance(error, io.UnsupportedOperation)


def in_bytes(size: float) -> str:
    """Writes a size as people read it: "0 bytes", "700 KB", "1.25 GB"."""
    units = ("bytes", "KB", "MB", "GB", "TB")
    power = 0
    while size >= 1000 and power < len(units) - 1:
        size, power = size / 1000, power + 1
    return f"{size:,.{0 if power < 3 else 2}f} {units[power]}"
