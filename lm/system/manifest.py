"""Lists a folder's files with their sizes and checksums, by which damage is found later.

    manifest.json: {"state/d/1": [2048, SHA-256 in hex], "rows": [2097152, null], ...}

A file without a checksum is compared by its size alone, which is for those that have checksums of
their own and are too large to be read at each start.
"""

import errno
import fnmatch
import hashlib
import json
import pathlib
from typing import Any

from lm.system import atomic_files

NAME = "manifest.json"


def write(folder: pathlib.Path, *, unread: str = "") -> None:
    """Lists all files of a folder, those whose name matches the glob `unread` by size alone."""
    atomic_files.sync_folder(folder)  # A manifest must not reach the disk before what it lists.
    listed = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name not in (NAME, f"{NAME}.tmp"):  # A killed write left it.
            checksum = None if fnmatch.fnmatch(path.name, unread) else _sha256(path)
            listed[str(path.relative_to(folder))] = path.stat().st_size, checksum
    atomic_files.write(folder / NAME, json.dumps(listed, indent=1))


def problem(folder: pathlib.Path, *, only: str = "") -> str | None:
    """Says what is wrong with the files of a folder that has a manifest, or gives None.

    With `only`, the name of a file in it, no other is read. Raises OSError where a file may not be
    read, which is no damage.
    """
    try:
        listed = json.loads((folder / NAME).read_bytes())
    except (ValueError, RecursionError):
        listed = None
    except OSError as error:
        return _unless_permission(error, NAME)
    if not _is_manifest(listed):
        return f"{NAME} cannot be read"
    for name in [only] if only in listed else listed:
        size, checksum = listed[name]
        file = folder / name
        try:
            if not file.is_file():
                return f"{name} is missing"
            if file.stat().st_size != size:  # Before the checksum, which takes a read.
                return f"{name} has {file.stat().st_size} bytes instead of {size}"
            if checksum is not None and _sha256(file) != checksum:
                return f"{name} has changed since it was written"
        except OSError as error:
            return _unless_permission(error, name)
    return None


def _is_manifest(listed: Any) -> bool:
    kinds = [int, str], [int, type(None)]
    is_entry = lambda entry: isinstance(entry, list) and [*map(type, entry)] in kinds
    return isinstance(listed, dict) and bool(listed) and all(map(is_entry, listed.values()))


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _unless_permission(error: OSError, name: str) -> str:
    if error.errno in (errno.EACCES, errno.EPERM):
        raise error
    return f"{name} cannot be read: {error.strerror}"
