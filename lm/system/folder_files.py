"""Reads the files of a folder that others made, of which some may be absent."""

import json
import pathlib
from typing import Any

from lm.errors import UserError


def has(path: pathlib.Path) -> bool:
    """Whether there is a file, or a link to one; raises UserError for anything else."""
    return _has(path, path.is_file(), "file")


def has_folder(path: pathlib.Path) -> bool:
    """Whether there is a folder, or a link to one; raises UserError for anything else."""
    return _has(path, path.is_dir(), "folder")


def _has(path: pathlib.Path, is_right: bool, kind: str) -> bool:
    # To take others for absent ones would hide what is wrong, such as a disk that is not mounted.
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; get what it should link to, or remove it")
    if path.exists() and not is_right:
        raise UserError(f"{path} is no {kind}; put the {kind} in its place, or remove it")
    return is_right


def json_object(name: str | pathlib.Path, contents: bytes) -> dict[str, Any]:
    """Returns the JSON object that a file holds; errors call the file by `name`.

    Raises:
      UserError: it holds none.
    """
    try:
        found = json.loads(contents.decode("utf-8-sig"))  # Else Python guesses an encoding.
    except (ValueError, RecursionError) as error:  # The latter for lists in lists, by thousands.
        raise UserError(f"{name} is no JSON ({error}); restore it") from None
    if not isinstance(found, dict):
        raise UserError(f"{name} holds no object of JSON; restore it")
    return found
