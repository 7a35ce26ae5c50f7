"""Looks for files that may be absent in a folder that others made."""

import pathlib

from lm.errors import UserError


def has(path: pathlib.Path) -> bool:
    """Whether there is a file, or a link to one; raises UserError for anything else."""
    if path.is_file():
        return True
    # To take these for absent files would hide what is wrong.
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; get what it should link to, or remove it")
    if path.exists():
        raise UserError(f"{path} is no file; put the file in its place, or remove it")
    return False
