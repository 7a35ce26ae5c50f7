"""The formats that labelled data comes in: files as records of fields."""

import csv
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from lm.data import files
from lm.errors import UserError


class Record(NamedTuple):
    """One labelled item, and the name that errors call it by, such as file.jsonl:12."""

    name: str
    fields: dict[str, Any]


def _lines(path: pathlib.Path) -> Iterator[tuple[int, str] | UserError]:
    """Numbered lines without their ends; in place of one that is not UTF-8, the error."""
    offset = 0
    for number, line in enumerate(files.lines(path), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            yield number, text.rstrip("\r\n")
        except UnicodeDecodeError as error:
            yield files.not_utf8(f"{path}:{number}", line, error, offset + error.start)
        offset += len(line)


def _json_lines(path: pathlib.Path) -> Iterator[Record | UserError]:
    """An object a line."""
    for line in _lines(path):
        if isinstance(line, UserError):
            yield line
        elif line[1].strip():
            yield _object(f"{path}:{line[0]}", line[1])


def _object(name: str, text: str) -> Record | UserError:
    try:
        fields = _parse(text)
    except json.JSONDecodeError as error:
        return UserError(
            f"{name}: not JSON ({error.msg} at column {error.colno}); mend the line, or set "
            "data.on_error=skip"
        )
    except ValueError as error:
        return UserError(f"{name}: {error}; mend the line, or set data.on_error=skip")
    return _record(name, fields)


_HALF = re.compile(r"\\u[dD][89a-fA-F]")  # An escape that is half a character beyond U+FFFF.


def _parse(text: str) -> Any:
    """What JSON says, in text that can be encoded.

    Raises:
      ValueError: it is no JSON, has a number of thousands of digits, or half a character.
    """
    tree = json.loads(text)
    if _HALF.search(text):
        json.dumps(tree, ensure_ascii=False).encode()
    return tree


def _record(name: str, fields: Any) -> Record | UserError:
    if not isinstance(fields, dict):
        return UserError(f"{name}: holds a {type(fields).__name__}, not an object with fields")
    return Record(name, fields)


def _json(path: pathlib.Path) -> Iterator[Record | UserError]:
    """A list of objects, or the questions of SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018)."""
    contents = b"".join(files.lines(path))
    try:
        tree = _parse(contents.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        yield files.not_utf8(str(path), contents, error, error.start)
        return
    except json.JSONDecodeError as error:
        yield UserError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})")
        return
    except ValueError as error:
        yield UserError(f"{path}: {error}; mend it")
        return
    if isinstance(tree, dict) and isinstance(tree.get("data"), list):
        yield from _squad(path, tree["data"])
    elif isinstance(tree, list):
        for index, fields in enumerate(tree):
            yield _record(f"{path}[{index}]", fields)
    else:
        yield UserError(f'{path}: neither a list of objects nor SQuAD, an object with "data"')


def _squad(path: pathlib.Path, articles: list) -> Iterator[Record | UserError]:
    """One record a question: id, title, context, question, answers, is_impossible."""
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
                    "is_impossible": bool(question.get("is_impossible", False)),
                }
                yield Record(f"{path}: question {fields['id']}", fields)


def _has(tree: Any, **kinds: Any) -> bool:
    """Whether it is an object with values of these kinds."""
    return isinstance(tree, dict) and all(isinstance(tree.get(k), t) for k, t in kinds.items())


def _csv(path: pathlib.Path) -> Iterator[Record | UserError]:
    """Comma-separated values under a header, quoted where they need it (RFC 4180)."""
    return _table(path, delimiter=",", doublequote=True, strict=True)


def _tsv(path: pathlib.Path) -> Iterator[Record | UserError]:
    """Tab-separated values under a header; quotes are text, as in GLUE's files."""
    return _table(path, delimiter="\t", quoting=csv.QUOTE_NONE)


def _table(path: pathlib.Path, **dialect) -> Iterator[Record | UserError]:
    contents = b"".join(files.lines(path))
    try:
        text = contents.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        yield files.not_utf8(str(path), contents, error, error.start)
        return
    csv.field_size_limit(sys.maxsize)
    rows = csv.reader(io.StringIO(text, newline=""), **dialect)
    header: list[str] | None = None
    first = 1
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield UserError(f"{path}:{first}: {error}; mend the line, or set data.on_error=skip")
            first = rows.line_num + 1
            continue
        if header is None:
            header = row
            if twice := [name for name in header if name and header.count(name) > 1]:
                yield UserError(f"{path}:{first}: two columns are named {twice[0]!r}; rename one")
                return
        elif row and len(row) != len(header):
            yield UserError(
                f"{path}:{first}: {len(row)} values under a header of {len(header)}; mend the "
                "line, or set data.on_error=skip"
            )
        elif row:
            yield Record(f"{path}:{first}", dict(zip(header, row, strict=True)))
        first = rows.line_num + 1


def _sentences(path: pathlib.Path) -> Iterator[list[tuple[int, str]] | UserError]:
    """The lines between empty ones, numbered."""
    sentence: list[tuple[int, str]] = []
    for line in _lines(path):
        if isinstance(line, UserError):
            yield line
        elif line[1].strip(" \t"):
            sentence.append(line)
        elif sentence:
            yield sentence
            sentence = []
    if sentence:
        yield sentence


def _conll(path: pathlib.Path) -> Iterator[Record | UserError]:
    """CoNLL-2003 (Tjong Kim Sang and De Meulder 2003): a word a line, its tag in the last column.

    Fields: tokens and tags; pos and chunk too, where there are four columns.
    """
    for sentence in _sentences(path):
        if isinstance(sentence, UserError):
            yield sentence
            continue
        # ASCII alone: words may hold other spaces, as between the digits of a number.
        rows = [(number, re.split("[ \t]+", line.strip(" \t"))) for number, line in sentence]
        rows = [(number, row) for number, row in rows if row[0] != "-DOCSTART-"]
        if not rows:
            continue
        odd = [each for each in rows if len(each[1]) < 2 or len(each[1]) != len(rows[0][1])]
        if odd:
            number, row = odd[0]
            yield UserError(
                f"{path}:{number}: {len(row)} columns, where a word and its tag, and in each "
                "line of a sentence as many, are needed; mend the line"
            )
            continue
        columns = list(zip(*(row for _, row in rows), strict=True))
        fields = {"tokens": list(columns[0]), "tags": list(columns[-1])}
        if len(columns) == 4:
            fields |= {"pos": list(columns[1]), "chunk": list(columns[2])}
        yield Record(f"{path}:{rows[0][0]}", fields)


def _conllu(path: pathlib.Path) -> Iterator[Record | UserError]:
    """CoNLL-U (Universal Dependencies): tokens, their tags (UPOS), xpos, and space_before."""
    for sentence in _sentences(path):
        if isinstance(sentence, UserError):
            yield sentence
            continue
        rows = [(n, line.split("\t")) for n, line in sentence if not line.startswith("#")]
        odd = [number for number, row in rows if len(row) != 10]
        unnumbered = [number for number, row in rows if not _ID.fullmatch(row[0])]
        if odd:
            yield UserError(f"{path}:{odd[0]}: not ten columns between tabs, as CoNLL-U has")
        elif unnumbered:
            yield UserError(
                f"{path}:{unnumbered[0]}: the first column is none of 1, 1-2 and 1.1, as in CoNLL-U"
            )
        elif rows:
            yield Record(f"{path}:{sentence[0][0]}", _words([row for _, row in rows]))


_ID = re.compile(r"\d+([-.]\d+)?", re.ASCII)


def _words(rows: list[list[str]]) -> dict[str, Any]:
    """Leaves out empty nodes (8.1); of a range (3-4), only the space after it counts."""
    fields: dict[str, Any] = {"tokens": [], "tags": [], "xpos": [], "space_before": []}
    space, range_end, space_after_range = False, 0, True
    for row in rows:
        if "." in row[0]:
            continue
        has_space = "SpaceAfter=No" not in row[9].split("|")
        if "-" in row[0]:
            range_end, space_after_range = int(row[0].split("-")[1]), has_space
            continue
        fields["tokens"].append(row[1])
        fields["tags"].append(row[3])
        fields["xpos"].append(row[4])
        fields["space_before"].append(space)
        inside = int(row[0]) < range_end
        space = True if inside else space_after_range if int(row[0]) == range_end else has_space
    return fields


# By suffix; each yields records, and in place of what cannot be read the error.
FORMATS: dict[str, Callable[[pathlib.Path], Iterator[Record | UserError]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".conll": _conll,
    ".iob": _conll,
    ".bio": _conll,
    ".conllu": _conllu,
}
