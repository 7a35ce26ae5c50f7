"""Reads labels in the spellings that people have for them: one, several, rows of 0 and 1."""

import ast
import collections
import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm.data.tags import spelled
from lm.errors import UserError
from lm.formats.fields import Record, lookup, names_of

_INVISIBLE = "\u200b\u2060\ufeff"  # Without width, and no white space to Python.


def clean(label: str) -> str:
    """Brings a label into the form that is compared: NFC, without white space around it.

    " pos" is "pos", and "e" with an accent behind it is "é"; case is kept.
    """
    text = unicodedata.normalize("NFC", label)
    # Again and again: white space may stand inside of invisible characters, and these in it.
    while text != (text := text.strip().strip(_INVISIBLE)):
        pass
    return text


def index_of(kind: str, labels: Sequence[str], scheme: str | None = None) -> dict[str, int]:
    """Returns the index of each label, by all names that data of this kind of task may use."""
    if kind == "tagging":
        return {name: i for i, name in enumerate(spelled(labels, scheme))}
    index = {str(i): i for i in range(len(labels))} if takes_numbers(kind, labels) else {}
    index |= {name: i for i, name in enumerate(labels)}
    for i, name in enumerate(labels):  # A config may spell labels with spaces around them.
        index.setdefault(clean(name), i)
    return index


def takes_numbers(kind: str, labels: Sequence[str]) -> bool:
    """Whether 0, 1, ... in the data are LABEL_0, LABEL_1, ..., which nobody has named."""
    unnamed = [f"LABEL_{i}" for i in range(len(labels))]  # As `transformers` calls them.
    # Not with several to a record: [0, 1] would be both labels, or a row that has the second.
    return kind == "classification" and bool(labels) and list(labels) == unnamed


def what_numbers_mean(labels: Sequence[str]) -> str:
    """Explains numbers that stand for labels without names."""
    last = len(labels) - 1
    return f"0 to {last} in the data are the head's LABEL_0 to LABEL_{last}, which have no names"


def label_of(record: Record, key: str) -> str:
    """Returns the one label of a record; raises UserError where there is none, or several."""
    value = field(record, key)
    if isinstance(value, str) and isinstance(_parsed(value.strip()), list):
        raise UserError(
            f"{record.name}: {key}={value!r} is a list of labels as text; take kind=multi"
        )
    return _one(record, key, value)


def _one(record: Record, key: str, value: Any) -> str:
    if isinstance(value, bool | int | str) and (label := clean(str(value))):
        return label
    raise UserError(f"{record.name}: {key}={value!r} is no label; one string or whole number is")


def labels_of(record: Record, key: str, names: Sequence[str] = ()) -> list[str]:
    """Returns the labels of a record, of which there may be one, several or none.

    A field holds a list, the text of one ('["x", "y"]', "['x', 'y']"), an object of labels with 0
    or 1 each, or one label. Where all labels are known, it may be a row of 0 and 1, a number for
    each in their order; or each of them is a field of its own, a column of 0 and 1.

    Args:
      record: with the field, or a field for each of the names.
      key: of the field.
      names: all labels, if they are known.

    Raises:
      UserError: it is none of these, or text that may be several labels.
    """
    names = [clean(name) for name in names]
    if names and key not in record.fields and all(name in record.fields for name in names):
        value: Any = [record.fields[name] for name in names]
    else:
        value = field(record, key)
    if isinstance(value, str):
        value = _read_text(record, key, value.strip(), names)
    if isinstance(value, dict) and is_row(list(value.values()), at_least=1):
        value = [name for name, number in value.items() if _number(number)]
    if not isinstance(value, list | tuple):
        return [_one(record, key, value)]
    is_repeated = len(set(map(str, value))) < len(value)  # As no list of labels is.
    if names and is_row(value, at_least=1) and (is_repeated or not {"0", "1"} <= set(names)):
        if len(value) == len(names):
            return [name for name, number in zip(names, value, strict=True) if _number(number)]
        if len(value) > 1:
            raise UserError(
                f"{record.name}: {key}={value!r} has {len(value)} numbers, one for each label, "
                f"and there are {len(names)}: {', '.join(names)}"
            )
    return list(dict.fromkeys(_one(record, key, each) for each in value))


_SEVERAL = re.compile(r"[,;|]|^[01](\s+[01])+$")
_GLUED = re.compile(r"""['"]\s+['"]""")  # As NumPy prints a list; Python would make one text of it.


def _parsed(text: str) -> list | tuple | dict | None:
    """Returns the list or object that text spells, in JSON or Python; None where there is none."""
    if text[:1] + text[-1:] in ("[]", "()", "{}") and not _GLUED.search(text):
        for parse in (json.loads, ast.literal_eval):
            with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                value = parse(text)
                # The order of a set differs between processes.
                value = sorted(value, key=str) if isinstance(value, set) else value
                return value if isinstance(value, list | tuple | dict) else None
    return None


def _read_text(record: Record, key: str, text: str, names: Sequence[str] = ()) -> Any:
    """Reads text as the list that it spells, or else as one label, as any of `names` is."""
    if clean(text) in names:
        return text
    if (value := _parsed(text)) is not None:
        return value
    if text.startswith("[") or _SEVERAL.search(text):
        raise UserError(
            f"{record.name}: {key}={text!r} may be several labels; write a list of them, as text "
            'in a table: ["one", "another"]'
        )
    return text


def _number(value: Any) -> int:
    return int(float(value))  # `int` alone refuses "1.0".


def is_row(value: Any, at_least: int = 2) -> bool:
    """Whether a list is of nothing but 0 and 1."""
    return (
        isinstance(value, list | tuple)
        and len(value) >= at_least
        and all(isinstance(each, bool | int | float | str) for each in value)
        and all(str(each).strip() in ("0", "1", "0.0", "1.0", "False", "True") for each in value)
        # As text, these may be labels.
        and not any(isinstance(each, str) and each in ("False", "True") for each in value)
    )


def refuse_rows(records: Iterable[Record], key: str) -> None:
    """Raises UserError if all records have rows of 0 and 1 of one length, of unknown labels."""
    lengths, first = set(), None
    for record in records:
        try:
            value = field(record, key)
            value = _read_text(record, key, value.strip()) if isinstance(value, str) else value
        except UserError:
            return
        if not is_row(value):
            return
        first = first or record
        lengths.add(len(value))
    if len(lengths) == 1:
        raise UserError(
            f"{first.name}: {key}={field(first, key)!r}, and all records have such a row of 0 and "
            "1, a number for each label; name the labels in their order: "
            "\"--config.task.labels=('one', 'another')\""
        )


def find_labels(
    records: Iterable[Record], read: Callable[[Record], Sequence[str]]
) -> collections.Counter:
    """Counts how often each label occurs, in their order: of numbers if all are, else of text."""
    counts: collections.Counter[str] = collections.Counter()
    for record in records:
        with contextlib.suppress(UserError):  # `Target.features` will report it.
            counts.update(read(record))
    order = sorted(counts, key=int) if all(map(str.isdecimal, counts)) else sorted(counts)
    return collections.Counter({name: counts[name] for name in order})


def near_equal(labels: Iterable[str]) -> list[list[str]]:
    """Groups labels that may be meant to be one: they differ in case, in -, _, spaces, as 1, 1.0.

    ["Yes", "yes", "no", "1", "1.0"] gives [["Yes", "yes"], ["1", "1.0"]].
    """
    groups: dict[str, list[str]] = collections.defaultdict(list)
    for label in labels:
        text = unicodedata.normalize("NFKC", label).casefold()
        key = clean(re.sub(r"[\s_-]+", " ", text))
        with contextlib.suppress(ValueError, OverflowError):
            if "_" not in text:  # To Python, 1_0 is a number.
                key = str(int(text)) if text.isdecimal() else repr(float(text)).removesuffix(".0")
        groups[key].append(label)
    return [group for group in groups.values() if len(group) > 1]


def field(record: Record, key: str) -> Any:
    """Returns a field of a record, or of one inside another; raises UserError if it is missing."""
    try:
        return lookup(record.fields, key)
    except KeyError:
        there = names_of(record.fields)
        raise UserError(f"{record.name}: the field {key!r} is missing; there are {there}") from None
