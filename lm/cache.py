"""Where prepared data and compiled programs are kept between runs."""

import os
import pathlib

import jax

from lm import allocator
from lm.errors import UserError

_LONG_COMPILATION_SECONDS = 0.5  # It leaves holes in the heap.


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


def keep_compiled_programs() -> None:
    """Has JAX keep in the cache what it compiles, and look there first; tidies up behind it."""
    jax.monitoring.register_event_duration_secs_listener(_tidy_up)
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def _tidy_up(event: str, seconds: float, **_) -> None:
    is_compilation = event == "/jax/core/compile/backend_compile_duration"
    if is_compilation and seconds > _LONG_COMPILATION_SECONDS:
        allocator.fill_holes()
