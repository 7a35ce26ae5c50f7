"""Records of fields: what the files of data hold, whatever their format is."""

from typing import Any, NamedTuple


class Record(NamedTuple):
    """One item, and the name that errors call it by, such as file.jsonl:12."""

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
    """The value of a field, or by a path of a nested one: "meta.text", "turns.0.text".

    A field of just that name is meant first.

    Raises:
      KeyError: there is neither.
    """
    if key in fields:
        return fields[key]
    value: Any = fields
    for part in key.split("."):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(key)
    return value
