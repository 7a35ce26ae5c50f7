"""From a dict of settings to a function that takes them by keyword."""

import inspect
from collections.abc import Callable
from typing import Any

from lm.errors import UserError


def call(function: Callable, block: str, settings: dict, **extra) -> Any:
    """Unpacks a block of the config into a function, so that no key can be unknown or missing."""
    try:
        inspect.signature(function).bind(**settings, **extra)
    except TypeError as error:
        raise UserError(f"config.{block}: {error}") from None
    return function(**settings, **extra)


def lookup(key: str, name: str, table: dict) -> Any:
    """The entry of a table, or a UserError that lists what there is."""
    if name not in table:
        raise UserError(f"{key}={name!r} is unknown; choose {', '.join(sorted(table))}")
    return table[name]
