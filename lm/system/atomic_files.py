"""Writes files that are there whole or not at all, whatever ends the program or the machine."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from lm.system import faults


@contextlib.contextmanager
def replacing(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a file to write, beside `path`, which takes its place once the block has ended well.

    Otherwise `path` stays as it was, and nothing is left behind. A reader sees the old file or the
    new one, and so does whoever looks after a power cut.
    """
    if path.exists() and not path.is_file():  # A pipe, or /dev/null.
        with faults.naming(path):
            yield path
        return
    target = pathlib.Path(os.path.realpath(path))  # A link stays; what it leads to is replaced.
    temporary = target.with_name(f"{target.name}.tmp")
    try:
        with faults.naming(path):
            yield temporary
            if target.exists():
                shutil.copymode(target, temporary)
            _sync(temporary)  # Before the rename, which may otherwise reach the disk first.
            temporary.replace(target)
            _sync_names(target.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (temporary, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write(path: pathlib.Path, contents: str | bytes) -> None:
    """Replaces a file by these contents; text as UTF-8."""
    with replacing(path) as temporary:
        temporary.write_bytes(contents.encode() if isinstance(contents, str) else contents)


def rename_folder(folder: pathlib.Path, target: pathlib.Path) -> None:
    """Gives a folder its name once the disk has all of it; `target` is empty, or not there."""
    sync_folder(folder)
    folder.rename(target)
    _sync_names(target.parent)


def sync_folder(folder: pathlib.Path) -> None:
    """Returns when the disk has all that was written into a folder."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            _sync_names(path)
        elif path.is_file():
            _sync(path)


def _sync(path: pathlib.Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sync_names(folder: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # Of file systems that cannot sync a folder.
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
