"""Keeps prepared data and compiled programs between runs."""

import os
import pathlib

import jax

from lm.errors import UserError

_KEPT_COMPILATION_SECONDS = 0.2


def cache_folder(name: str) -> pathlib.Path:
    """Makes the folder `name` of the cache, which is $LM_CACHE, or else ~/.cache/lm.

    Raises UserError where it cannot be made, or nothing says where.
    """
    try:
        folder = pathlib.Path(os.environ.get("LM_CACHE") or "~/.cache/lm").expanduser() / name
    except RuntimeError as error:
        raise UserError(f"LM_CACHE is not set ({error}); set it, or HOME, to a folder") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error}); set LM_CACHE to a folder") from None
    return folder


def keep_compiled_programs() -> None:
    """Has JAX keep in the cache what it compiles, and look there first."""
    folder = cache_folder("xla")
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Where nothing can be written, JAX would warn of each program that it cannot keep.
    seconds = _KEPT_COMPILATION_SECONDS if os.access(folder, os.W_OK) else float("inf")
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
