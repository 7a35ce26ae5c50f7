"""Where prepared data and compiled programs are kept between runs."""

import os
import pathlib

from lm.errors import UserError


def cache_folder(name: str) -> pathlib.Path:
    """The folder `name` of the cache: $LM_CACHE, or ~/.cache/lm where that is not set.

    Raises:
      UserError: it cannot be made.
    """
    folder = pathlib.Path(os.environ.get("LM_CACHE") or "~/.cache/lm").expanduser() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error}); set LM_CACHE to a folder") from None
    return folder
