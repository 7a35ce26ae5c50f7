"""Holds records of fields, which files of data give whatever their format is."""

import re
import reprlib
from collections.abc import Iterator
from typing import Any, NamedTuple

_MAX_DEPTH = 100
_INDEX = re.compile("[0-9]{1,9}")  # Of a list.
_KINDS = {type(None): "null", bool: "true or false", int: "a number", float: "a number"}
_KINDS |= {str: "a text", list: "a list", dict: "an object"}
_SHORT = reprlib.Repr()  # Keys may be as long as a file.
_SHORT.maxlist, _SHORT.maxstring = 20, 80


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


def kind_of(value: Any) -> str:
    """Says what a value is, as JSON has it."""
    return _KINDS.get(type(value), f"of type {type(value).__name__}")


def num_bytes_of(value: Any) -> int:
    """Counts the bytes of a value: of text in UTF-8, of null none, of others as Python shows it."""
    if value is None:
        return 0
    if isinstance(value, bytes):
        return len(value)
    return len(str(value).encode(errors="surrogatepass"))


def names_of(fields: dict[str, Any]) -> str:
    """Names the fields that there are, for an error: some of many, and long ones in short."""
    return _SHORT.repr([*fields])[1:-1] or "none"


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


def texts_of(record: Record) -> list[str]:
    """Lists every text in a record, however deep; a list of texts is one.

    {"id": 7, "ask": {"q": "Which?"}, "words": ["a", "b"]} -> ["Which?", "a b"]
    """

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple) and all(isinstance(child, str) for child in value):
            yield " ".join(value)  # Words of one text, as records of tagging have them.
        elif isinstance(value, dict | list | tuple):
            for child in value.values() if isinstance(value, dict) else value:
                yield from texts(child)

    return list(texts(record.fields))
