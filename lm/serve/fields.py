"""Reads the JSON object that a request brings: every field is checked, and none is passed over."""

import difflib
import json
import math
import reprlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from lm.formats.fields import is_deep, kind_of
from lm.serve.refusal import Refusal, invalid

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60


class Field(NamedTuple):
    """Says how a field is read, (name, value) -> what is used, and what stands for none or null."""

    read: Callable[[str, Any], Any]
    default: Any = None


def read_object(body: bytes) -> dict[str, Any]:
    """Reads an object of JSON in UTF-8.

    Raises:
      Refusal: it is none, is more than 100 levels deep, or holds half a character, NaN or a number
        that is infinite as a float.
    """
    try:
        value = json.loads(body.decode(), parse_constant=_not_finite, parse_float=_finite)
        json.dumps(value, ensure_ascii=False).encode()  # Half a surrogate pair is no text.
    except UnicodeDecodeError as error:
        raise Refusal(f"the body is no UTF-8 ({error.reason} at byte {error.start})") from None
    except UnicodeEncodeError:
        raise Refusal("the body spells half of a surrogate pair, which is no character") from None
    except RecursionError:
        raise Refusal("the body is nested too deeply; at most 100 levels are read") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise Refusal(f"the body is no JSON: {error.msg} at {place}") from None
    except ValueError:  # Python's bound on the digits of a number.
        raise Refusal("the body holds a number with too many digits") from None
    if not isinstance(value, dict):
        raise Refusal(f"the body is {kind_of(value)}, and must be an object of JSON")
    if is_deep(value):
        raise Refusal("the body is nested too deeply; at most 100 levels are read")
    return value


def parse(
    fields: Mapping[str, Any],
    known: Mapping[str, Field],
    unsupported: Mapping[str, tuple[Any, ...]],
    within: str = "",
) -> dict[str, Any]:
    """Reads the fields of an object; null is as good as none.

    Args:
      fields: of the object.
      known: those that there are.
      unsupported: those that other servers have, with values that ask for nothing.
      within: the field that holds the object, for errors.

    Raises:
      Refusal: a field that is in neither, asks for what is not supported, or cannot be read.
    """
    inside = f"{within}." if within else ""
    for name, value in fields.items():
        if name in unsupported:
            if value is not None and value not in unsupported[name]:
                raise Refusal(
                    f"{inside}{name} is not supported by this server; leave it out",
                    param=f"{inside}{name}",
                    code="unsupported_parameter",
                )
        elif name not in known:
            shown = f"{inside}{_SHORT.repr(name)[1:-1]}"
            nearest = difflib.get_close_matches(name[:60], known, 1)
            hint = f"; did you mean {inside}{nearest[0]}?" if nearest else ""
            raise Refusal(
                f"unknown parameter: {shown}{hint}", param=shown, code="unknown_parameter"
            )
    return {
        name: field.default
        if fields.get(name) is None
        else field.read(f"{inside}{name}", fields[name])
        for name, field in known.items()
    }


def text(name: str, value: Any) -> str:
    """Reads a text."""
    return _of_kind(name, value, (str,), "a text")


def flag(name: str, value: Any) -> bool:
    """Reads true or false."""
    return _of_kind(name, value, (bool,), "true or false")


def mapping(name: str, value: Any) -> dict[str, Any]:
    """Reads an object, whatever it holds."""
    return _of_kind(name, value, (dict,), "an object")


def whole(low: int, high: int) -> Callable[[str, Any], int]:
    """Makes a reader of whole numbers from `low` to `high`."""

    def read(name: str, value: Any) -> int:
        _of_kind(name, value, (int,), "a whole number")
        if not low <= value <= high:
            raise invalid(name, f"is {_SHORT.repr(value)} and must be from {low} to {high}")
        return value

    return read


def number(low: float, high: float, *, above: bool = False) -> Callable[[str, Any], float]:
    """Makes a reader of numbers from `low`, or `above` it, to `high`."""

    def read(name: str, value: Any) -> float:
        _of_kind(name, value, (int, float), "a number")
        if not low <= value <= high or (above and value == low):
            bound = f"above {low:g} and at most {high:g}" if above else f"from {low:g} to {high:g}"
            raise invalid(name, f"is {_SHORT.repr(value)} and must be {bound}")
        return float(value)

    return read


def texts(low: int, high: int, *, or_one: bool = False) -> Callable[[str, Any], tuple[str, ...]]:
    """Makes a reader of lists of so many texts, none of them empty; `or_one`: or of one text."""

    def read(name: str, value: Any) -> tuple[str, ...]:
        found = [value] if or_one and isinstance(value, str) else value
        kinds = "a text, or a list of texts" if or_one else "a list of texts"
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise _wrong_kind(name, value, kinds)
        if not all(found):
            raise invalid(name, "holds an empty text; leave that out")
        if not low <= len(found) <= high:
            raise invalid(name, f"has {len(found)} texts and must have from {low} to {high}")
        return tuple(found)

    return read


def _of_kind(name: str, value: Any, kinds: tuple[type, ...], words: str) -> Any:
    if type(value) not in kinds:  # A bool is an int.
        raise _wrong_kind(name, value, words)
    return value


def _wrong_kind(name: str, value: Any, words: str) -> Refusal:
    message = f"{name} is {kind_of(value)} and must be {words}"
    return Refusal(message, param=name, code="invalid_type")


def _not_finite(constant: str) -> float:
    raise Refusal(f"the body holds {constant}, which is no JSON")


def _finite(digits: str) -> float:
    if not math.isfinite(value := float(digits)):
        raise Refusal("the body holds a number that is beyond what a float holds")
    return value
