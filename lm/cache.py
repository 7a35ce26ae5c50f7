"""Where prepared data and compiled programs are kept between runs."""

import os
import pathlib


def cache_folder(name: str) -> pathlib.Path:
    """The folder `name` of the cache: $LM_CACHE, or ~/.cache/lm where that is not set."""
    return pathlib.Path(os.environ.get("LM_CACHE") or "~/.cache/lm").expanduser() / name
