"""Keeps printing from ending a program: readers go away, terminals close, disks fill up."""

import contextlib
import errno
import io
import os
import stat
import sys

_NAMES = {1: "standard output", 2: "standard error"}


class _Stream(io.RawIOBase):
    """A file descriptor, 1 or 2, that goes on as /dev/null once it cannot be written any more."""

    def __init__(self, fd: int, raises: str):
        self._fd, self.has_lost_reader = fd, False
        self.raises = raises  # Of which failures: "all", "but readers" that went away, or "none".
        # Not isatty, which says no of a terminal that was closed.
        self._may_be_terminal = stat.S_ISCHR(os.fstat(fd).st_mode)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return os.isatty(self._fd)

    def write(self, data) -> int | None:
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return None
        except OSError as error:
            # For all that write to this descriptor, of C++ and child processes too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._fd)
            # EIO is what a terminal gives once it was closed.
            is_hangup = error.errno == errno.EIO and self._may_be_terminal
            is_unread = error.errno == errno.EPIPE or is_hangup
            self.has_lost_reader |= is_unread
            if self.raises == "all" or (self.raises == "but readers" and not is_unread):
                raise OSError(error.errno, error.strerror, _NAMES[self._fd]) from None
            return len(data)


_streams: dict[int, _Stream] = {}


def guard() -> None:
    """Makes stdout and stderr of this process such that a reader that goes away is no failure.

    Of stdout, only after `outlive_readers`: until then whoever prints gets a BrokenPipeError.
    """
    # A stream that was closed before the start is opened on /dev/null: the next file that is opened
    # would get its number, and what C++ prints.
    for fd in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.fstat(fd)
            continue
        os.open(os.devnull, os.O_RDWR)  # It gets the lowest number that is free.
    for fd, name in ((1, "stdout"), (2, "stderr")):
        before = getattr(sys, name)
        _streams[fd] = _Stream(fd, "all" if fd == 1 else "none")
        stream = io.TextIOWrapper(
            io.BufferedWriter(_streams[fd]),
            encoding=before.encoding if before is not None else "utf-8",
            errors="backslashreplace",  # For what the terminal's encoding lacks.
            line_buffering=fd == 2 or _streams[fd].isatty(),
            write_through=before is not None and before.write_through,
        )
        if before is not None:
            before.flush()
        setattr(sys, name, stream)


def outlive_readers() -> None:
    """From here on, printing goes on into nothing where nobody reads stdout any more."""
    if 1 in _streams:
        _streams[1].raises = "but readers"


def has_lost_reader() -> bool:
    """Whether whoever read stdout has gone away."""
    return 1 in _streams and _streams[1].has_lost_reader
