"""The files of a folder that others made, of which some may be absent."""

import pathlib

from lm.errors import UserError


def has(path: pathlib.Path) -> bool:
    """Whether there is a file, or a link to one.

    Raises:
      UserError: there is something else, which to take for an absent file would hide.
    """
    if path.is_file():
        return True
    if path.is_symlink() and not path.exists():
        raise UserError(f"{path} is a link to nothing; get what it should link to, or remove it")
    if path.exists():
        raise UserError(f"{path} is no file; put the file in its place, or remove it")
    return False
