"""From a sweep to planned runs: each resolved, and named by its config."""

import dataclasses
import pathlib
from typing import Any

import ml_collections


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep, or the only one where there is none.

    name: 10 hex digits, a hash of the resolved config.
    workdir: FOLDER/name, or --workdir itself where there is no sweep.
    overrides: what differs from the base; may hold "arg".
    config: resolved and locked, just as a process with `arguments` resolves it.
    arguments: of launch.py.
    """

    name: str
    workdir: pathlib.Path
    overrides: dict[str, Any]
    config: ml_collections.ConfigDict
    arguments: tuple[str, ...]
