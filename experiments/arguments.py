"""Arguments of launch.py: from a config and its changes, and back, without any process."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from lm import workdir as workdir_lib
from lm.errors import UserError

# What the flag and config libraries raise for what a user wrote.
MISTAKES = (
    flags.Error,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    OSError,
    RuntimeError,
    SystemExit,
)


def of_config(filename: str, changes: Mapping[str, Any]) -> tuple[str, ...]:
    """The arguments that make a config: ("--config=F.py:arg", "--config.seed=1", ...).

    Args:
      filename: as in --config=FILE.py:arg.
      changes: values by dotted key.
    """
    return (f"--config={filename}", *(f"--config.{k}={_text(v)}" for k, v in changes.items()))


def resolve(arguments: Sequence[str]) -> ml_collections.ConfigDict:
    """The locked config that a process with these arguments has.

    Raises:
      UserError: one line about the argument that cannot be followed.
    """
    values = flags.FlagValues()
    holder = config_flags.DEFINE_config_file(
        "config", None, "", flag_values=values, sys_argv=list(arguments)
    )
    try:
        values(["launch.py", *arguments])
        return holder.value.lock()
    except MISTAKES as error:
        raise UserError(one_line(error, arguments)) from None


def one_line(error: Exception, arguments: Sequence[str]) -> str:
    """An error of the flag or config library as one line that shows the argument it is about."""
    message = error
    while isinstance(message, Exception) and message.args:
        message = message.args[0]  # A KeyError inside an AttributeError, each quoted once more.
    # What a config file raises arrives with its whole traceback as text.
    text = re.sub(r"Traceback \(most.* \w+Error: ", "", " ".join(str(message).split()))
    unknown = re.match(r"'(\w+)'", text)
    if unknown is None:
        return text
    pattern = rf"--(config|launcher)\.([\w.]+\.)?{unknown[1]}(=|\.|$)"
    at = [arg for arg in arguments if re.match(pattern, arg)]
    return f"{at[0] if at else unknown[1]} is no key of this config.{text[unknown.end() :]}"


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Its values by dotted key."""
    return workdir_lib.flat(json.loads(config.to_json()))


def _text(value: Any) -> str:
    """A value as the flag of its type reads it; floats keep all their bits."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)
