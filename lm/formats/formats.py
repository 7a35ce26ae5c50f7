"""Reads files of any known format as records of fields."""

import functools
import json
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from lm.errors import UserError
from lm.formats import conll, files, tables
from lm.formats.fields import Record, is_deep, kind_of, num_bytes_of

T = TypeVar("T")
ReadFn = Callable[[pathlib.Path, int], Iterator[Record | UserError]]


class BadJson(UserError):
    """JSON holds no records, or a value that is none.

    reason: its name; num_bytes: of what is lost, in a list as Python would write it.
    """

    def __init__(self, message: str, reason: str, num_bytes: int):
        super().__init__(message)
        self.reason, self.num_bytes = reason, num_bytes


def read(
    path: pathlib.Path,
    max_bytes: int,
    reader: Callable[[pathlib.Path, int], Iterator[T | UserError]],
) -> Iterator[T | UserError]:
    """Yields the records or lines of a file; in place of what cannot be read, the error.

    Args:
      path: of the file, which may be packed.
      max_bytes: the longest record.
      reader: of its format, see `reader_of`; or of lines.
    """
    num_read = 0
    try:
        for item in reader(path, max_bytes):
            num_read += not isinstance(item, UserError)
            yield item
            del item  # It may be long, and would be held while the next one is made.
    except files.DAMAGED as error:
        yield files.unreadable(path, error, num_read)
    except UserError as error:  # Of the file as a whole, as when it is UTF-16.
        yield files.RestUnread(str(error))


def reader_of(path: pathlib.Path) -> ReadFn:
    """Returns the reader of the format that a suffix names, whatever packs the file.

    Raises:
      UserError: the format is unknown.
    """
    suffix = _suffix(path)
    if suffix not in FORMATS:
        raise UserError(
            f"{files.shown(path)}: the format {suffix or 'without a suffix'} is unknown; known are "
            f"{', '.join(FORMATS)}"
        )
    return FORMATS[suffix]


def is_known(path: pathlib.Path) -> bool:
    """Whether the suffix names a format."""
    return _suffix(path) in FORMATS


def _suffix(path: pathlib.Path) -> str:  # "a.json.GZ" -> ".json"
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in files.PACKED]
    return suffixes[-1] if suffixes else ""


def json_lines(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads an object a line. Of a key that an object has twice, the last one counts."""
    # Not by loops, whose variables would hold a line for as long as its record is used.
    lines = files.text_lines(path, max_bytes)
    return filter(None, map(functools.partial(_json_line, files.shown(path)), lines))


def _json_line(name: str, line: files.TextLine | UserError) -> Record | UserError | None:
    if isinstance(line, UserError):
        return line
    is_empty = not line.text or line.text.isspace()
    return None if is_empty else json_object(f"{name}:{line.number}", line.text)


def json_object(name: str, text: str) -> Record | UserError:
    """Returns the record that a line of JSON Lines is, or why it is none."""
    try:
        return _record(name, json.loads(text), text)
    except (ValueError, RecursionError) as error:
        return _bad(name, error, f"mend the line, or set {files.SKIP}", len(text.encode()))


def _bad(name: str, error: Exception, remedy: str, num_bytes: int) -> BadJson:
    """Says why `json` cannot read a text."""
    reason = "not_json"
    if isinstance(error, json.JSONDecodeError):
        said = f"not JSON ({error.msg} at column {error.colno})"
    elif isinstance(error, RecursionError):
        said, reason = _TOO_DEEP, "too_deep"
    else:  # Python refuses to turn more than 4,300 digits into an int, by a plain ValueError.
        said = "a number of thousands of digits"
    return BadJson(f"{name}: {said}; {remedy}", reason, num_bytes)


_TOO_DEEP = "lists and objects in one another, deeper than can be read"


def _record(name: str, fields: Any, text: str = "") -> Record | UserError:
    if is_deep(fields):
        said = f"{name}: {_TOO_DEEP}; leave it out, or set {files.SKIP}"
        return BadJson(said, "too_deep", len(text.encode()))
    if not isinstance(fields, dict):
        said = f"{name}: holds {kind_of(fields)}, not an object with fields"
        return BadJson(said, "not_an_object", num_bytes_of(text or fields))
    return Record(name, fields)


def _json(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads a list of objects, or questions of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018)."""
    name = files.shown(path)
    try:
        tree = json.loads("".join(files.decoded(path, max_bytes)))
    except UserError:  # A ValueError, too; `read` yields it.
        raise
    except (ValueError, RecursionError) as error:
        if getattr(error, "msg", "") == "Extra data":  # JSON Lines under another name.
            yield from json_lines(path, max_bytes)
        else:
            at = f"{name}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else name
            yield _bad(at, error, "mend it", path.stat().st_size)
        return
    if isinstance(tree, dict) and isinstance(tree.get("data"), list):
        yield from _squad(name, tree["data"])
    elif isinstance(tree, list):
        for index, fields in enumerate(tree):
            yield _record(f"{name}[{index}]", fields)
    else:
        said = f'{name}: neither a list of objects nor SQuAD, an object with "data"'
        yield BadJson(said, "not_an_object", path.stat().st_size)


def _squad(path: str, articles: list) -> Iterator[Record | UserError]:
    """Yields a record a question: id, title, context, question, answers, is_impossible."""
    for a, article in enumerate(articles):
        at = f"{path}: data[{a}]"
        if not _has(article, paragraphs=list):
            yield UserError(f"{at} is not as in SQuAD, an article with a list of paragraphs")
            continue
        for p, paragraph in enumerate(article["paragraphs"]):
            at = f"{path}: data[{a}].paragraphs[{p}]"
            if not _has(paragraph, context=str, qas=list):
                yield UserError(f"{at} is not as in SQuAD, a context with a list of qas")
                continue
            for q, question in enumerate(paragraph["qas"]):
                if not _has(question, id=str | int, question=str):
                    yield UserError(f"{at}.qas[{q}] is not as in SQuAD, an id with a question")
                    continue
                fields = {
                    "id": str(question["id"]),
                    "title": article.get("title", ""),
                    "context": paragraph["context"],
                    "question": question["question"],
                    "answers": question.get("answers", []),
                    "is_impossible": bool(question.get("is_impossible", False)),  # SQuAD 2.0 only.
                }
                yield Record(f"{path}: question {fields['id']}", fields)


def _has(tree: Any, **kinds: Any) -> bool:
    """Whether it is an object with values of these kinds."""
    return isinstance(tree, dict) and all(isinstance(tree.get(k), t) for k, t in kinds.items())


# By suffix; each yields records, and in place of what cannot be read the error.
FORMATS: dict[str, ReadFn] = {
    ".jsonl": json_lines,
    ".ndjson": json_lines,
    ".json": _json,
    ".csv": tables.comma_separated,
    ".tsv": tables.tab_separated,
    ".conll": conll.conll,
    ".iob": conll.conll,
    ".bio": conll.conll,
    ".conllu": conll.conllu,
}
