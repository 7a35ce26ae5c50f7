"""Holds records of fields, which files of data give whatever their format is."""

import re
from typing import Any, NamedTuple

_MAX_DEPTH = 100
_INDEX = re.compile("[0-9]{1,9}")  # Of a list.


class Record(NamedTuple):
    """One item; errors call it by its name, such as file.jsonl:12."""

    name: str
    fields: dict[str, Any]


def has(fields: dict[str, Any], key: str) -> bool:
    """Whether `lookup` finds a field."""
    try:
        lookup(fields, key)
    except KeyError:
        return False
    return True


def lookup(fields: dict[str, Any], key: str) -> Any:
    """Returns the value of a field, or by a path of a nested one: "meta.text", "turns.0.text".

    Raises:
      KeyError: there is neither.
    """
    if key in fields:  # First: a column may be named with a dot.
        return fields[key]
    value: Any = fields
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and _INDEX.fullmatch(part) and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(key)
    return value


def is_deep(value: Any) -> bool:
    """Whether a JSON value has more than 100 levels, which recursion should not follow."""
    level = [value]  # One after the other, and so without recursion.
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for each in level
            if isinstance(each, dict | list)
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True
