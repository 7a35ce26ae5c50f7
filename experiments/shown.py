"""Configs and commands as they are shown to people."""

import json
import os
import shlex
import sys

import ml_collections


def config_text(config: ml_collections.ConfigDict) -> str:
    """YAML, its tuples as lists: YAML has none, and would name Python's."""
    return str(ml_collections.ConfigDict(json.loads(config.to_json())))


def command(*args: str) -> str:
    """A command line of `launch.py` that can be pasted where this one was."""
    python = os.path.relpath(sys.executable)
    return shlex.join(["python" if python.startswith("..") else python, "launch.py", *args])
