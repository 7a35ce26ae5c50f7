"""Bounds how many characters an operation of a template makes, told from its operands.

Strings grow by products: of a text and a count, of what is replaced and what it is replaced by, of
a width. These are asked for before the operation is done; sums of lengths are counted afterwards.
"""

import contextlib
import itertools
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def size_of(value: Any) -> int:
    """Counts the characters of a text or items of a list; of a number, its bytes."""
    if isinstance(value, str | bytes | list | tuple | dict | range):
        return len(value)
    return _int_bytes(value)


def operator_cost(operator: str, left: Any, right: Any) -> int:
    """Bounds `left operator right`, for + * ** and %."""
    match operator:
        case "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, int) and not isinstance(other, int | float):
                    return max(one, 0) * size_of(other)
            return _int_bytes(left) * _int_bytes(right)  # The time of a long multiplication.
        case "**":
            grows = isinstance(left, int) and isinstance(right, int) and right > 0
            return (_int_bytes(left) * right) ** 2 if grows else 0  # The time of its last squaring.
        case "%" if isinstance(left, str | bytes):
            return _percent(left, right)
    return size_of(left) + size_of(right)


def _int_bytes(value: Any) -> int:
    return (value.bit_length() + 7) // 8 if isinstance(value, int) else 0


def _percent(text: Any, values: Any) -> int:
    """Bounds `"%5d" % values`: a field holds all of the values at most, or its width."""
    text = text.decode("latin-1") if isinstance(text, bytes) else text
    widths = _sum_of_ints(_NUMBER.findall(text))
    if "*" in text:  # Widths may be among the values, as in "%*d".
        widths += _sum_of_ints(_numbers(values if isinstance(values, tuple) else [values]))
    return len(text) + widths + text.count("%") * len(str(values))


def _format(text: str, *args: Any, **kwargs: Any) -> int:
    """Bounds `"{:5}".format(...)`."""
    widths = _sum_of_ints(_NUMBER.findall(text)) + _given_widths(text, args, kwargs)
    return len(text) + widths + text.count("{") * len(str((args, kwargs)))


def _given_widths(text: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    """Sums all numbers in what the fields of a field's format name, as in "{:{w[0]}}"."""
    widths, unnamed = 0, itertools.count()
    # What is no format is refused where it begins to be none, and what stands before is made.
    with contextlib.suppress(ValueError):
        for _, field, spec, _ in _FORMATTER.parse(text):
            if field is None:
                continue
            if not _FIRST_NAME.match(field)[0]:
                next(unnamed)  # Before the fields of its own format, as `format` counts.
            for _, name, _, _ in _FORMATTER.parse(spec):
                if name is None:
                    continue
                first = _FIRST_NAME.match(name)[0] or str(next(unnamed))
                given = args[int(first) :][:1] if first.isdecimal() else [kwargs.get(first)]
                widths += _sum_of_ints(_NUMBER.findall(str(given)))
    return widths


def _format_map(text: str, mapping: Mapping[str, Any]) -> int:
    return _format(text, mapping) + _given_widths(text, (), mapping)


def _sum_of_ints(values: Any) -> int:
    """Sums what can be read as a whole number."""
    # 19 digits are past any budget; Python would refuse to read thousands.
    numbers = [int(x[:19]) if isinstance(x, str) else x for x in values]
    return sum(max(x, 0) for x in numbers if isinstance(x, int))


def _widths(value: Any, *args: Any, **kwargs: Any) -> int:
    return size_of(value) + _sum_of_ints(_numbers([*args, *kwargs.values()]))


def _width_of_each(value: Any, *args: Any, **kwargs: Any) -> int:
    """Bounds a width, or a text, for each line or item of the value."""
    given = [*args, *kwargs.values()]
    texts = sum(len(str(x)) for x in given if not isinstance(x, int))
    return (1 + len(str(value))) * (1 + texts + _sum_of_ints(_numbers(given)))


def _numbers(values: Any) -> list[int]:
    return [x for x in values if isinstance(x, int)]


def _replace(text: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    if isinstance(text, bytes):
        return len(text) + text.count(old) * len(new)
    text, old, new = str(text), str(old), str(new)
    return len(text) + text.count(old) * len(new)


def _join_filter(values: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return _join(d, list(values))


def _join(separator: Any, values: Any) -> int:
    sizes = [size_of(x) for x in values]
    return sum(sizes) + len(sizes) * size_of(separator)


def _translate(text: str, table: Any) -> int:
    return len(text) * max((size_of(x) for x in table.values()), default=1)


_NUMBER = re.compile(r"\d+")
_FIRST_NAME = re.compile(r"[^.\[]*")  # Of a field, such as "0" of "0[1].x".
_FORMATTER = string.Formatter()

# Methods of texts, and one of numbers; other methods make no more than a few times their text.
METHOD_COSTS: dict[str, Callable[..., int]] = {
    "center": _widths,
    "expandtabs": _width_of_each,
    "format": _format,
    "format_map": _format_map,
    "join": _join,
    "ljust": _widths,
    "replace": _replace,
    "rjust": _widths,
    "to_bytes": _widths,
    "translate": _translate,
    "zfill": _widths,
}
FILTER_COSTS: dict[str, Callable[..., int]] = {
    "batch": _widths,
    "center": _widths,
    "format": lambda value, *args, **kwargs: _percent(str(value), kwargs or args),
    "indent": _width_of_each,
    "join": _join_filter,
    "replace": _replace,
    "round": _widths,
    "slice": _widths,
    "tojson": _width_of_each,
    "truncate": _widths,
    "urlize": _width_of_each,
    "wordwrap": _width_of_each,
    "xmlattr": _width_of_each,
}
