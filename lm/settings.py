"""Unpacks a block of settings into the function that takes them, and looks choices up."""

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lm.errors import UserError


def keywords(function: Callable) -> dict[str, inspect.Parameter]:
    """Gives the arguments that a function takes by keyword alone, in the order of its signature."""
    parameters = inspect.signature(function).parameters
    return {name: one for name, one in parameters.items() if one.kind is one.KEYWORD_ONLY}


def check_keys(
    function: Callable,
    block: str,
    settings: Mapping[str, Any],
    *,
    of: str = "",
    given: Collection[str] = (),
) -> None:
    """Raises UserError unless a block of the config has what a function takes by keyword.

    Args:
      function: takes the settings; what it has a default for may be missing.
      block: the name of the block, for the error.
      settings: of the block.
      of: what the settings are for, in the error; by default the block.
      given: the arguments that do not come from the config.
    """
    of = of or f"the {block} block"
    takes = {name: one for name, one in keywords(function).items() if name not in given}
    last = list(inspect.signature(function).parameters.values())[-1:]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in last)
    for name in settings:
        if name not in takes and not takes_any:
            raise UserError(f"{block}.{name} is no setting of {of}")
    for name, one in takes.items():
        if name not in settings and one.default is one.empty:
            raise UserError(f"{block}.{name} is missing, and needed by {of}")


def call(function: Callable, block: str, settings: Mapping[str, Any], **given) -> Any:
    """Unpacks a block of the config into a function, so that no key can be unknown or missing."""
    check_keys(function, block, settings, given=given)
    return function(**settings, **given)


def choose(key: str, name: Any, choices: Collection[str]) -> Any:
    """Gives the name back, or raises a UserError that lists the choices if it is none of them."""
    if name not in choices:
        raise UserError(f"{key}={name!r} is unknown; choose {', '.join(choices)}")
    return name


def lookup(key: str, name: str, table: Mapping[str, Any]) -> Any:
    """Gives the entry of a table; see `choose`."""
    return table[choose(key, name, table)]
