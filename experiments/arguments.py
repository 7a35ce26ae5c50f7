"""Arguments of launch.py: from a config and its changes, and back, without any process."""

import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
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


def check_settings(takes: Callable, settings: Mapping[str, Any]) -> None:
    """Raises UserError where a file of one's own has other settings than a launcher takes.

    Args:
      takes: whatever has them as its keyword-only arguments.
      settings: of the file, with what the command line changes.
    """
    every = inspect.signature(takes).parameters.values()
    types = {one.name: one.annotation for one in every if one.kind is one.KEYWORD_ONLY}
    if unlike := sorted(types.keys() ^ settings.keys()):
        verb = "needs" if unlike[0] in types else "does not take"
        raise UserError(f"--launcher {verb} {unlike[0]}; configs/launchers.py has its settings")
    for name, value in settings.items():
        if not _is_of(types[name], value):
            kind = types[name].__name__.replace("tuple", "tuple of str")
            raise UserError(f"--launcher.{name}={value!r} must be of type {kind}")


def _is_of(kind: type, value: Any) -> bool:
    if typing.get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(isinstance(part, str) for part in value)
    return type(value) in ((int, float) if kind is float else (kind,))


def flat(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Its values by dotted key."""
    return workdir_lib.flat(json.loads(config.to_json()))


def _text(value: Any) -> str:
    """A value as the flag of its type reads it; floats keep all their bits."""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else repr(value)
