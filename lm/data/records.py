"""Labelled data: records of fields, from the formats that the field's data sets come in."""

import csv
import hashlib
import io
import json
import pathlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lm.data import embedded, files, sources
from lm.data.files import without_errors as readable_items
from lm.errors import UserError


class Record(NamedTuple):
    """One labelled item, and the name that errors call it by, such as file.jsonl:12."""

    name: str
    fields: dict[str, Any]


class RecordSource(NamedTuple):
    """One split of labelled data; see `sources.Source`, which is the same for documents."""

    records: Callable[[], Iterable[Record | UserError]]
    fingerprint: Callable[[], str]


def read_records(source: str, *, split: str, spec: str) -> RecordSource:
    """One split of the labelled data that a config names.

    Args:
      source: `data.source`: files; tfds:NAME; hf:NAME; or python_stdlib:TASK, an embedded example.
      split: "train" or "validation".
      spec: `data.train` or `data.validation`: a glob, or a split as TFDS and Hugging Face name it.

    Raises:
      UserError: the kind is unknown, or nothing is there.
    """
    kind, _, argument = source.partition(":")
    if kind not in _KINDS:
        raise UserError(f"data.source={source!r} is unknown; choose {', '.join(_KINDS)}")
    return _KINDS[kind](argument, split, spec)


def readable(source: RecordSource, on_error: str, skipped: list[UserError]) -> Iterator[Record]:
    """The records that can be read; see `files.without_errors`."""
    return readable_items(source.records(), on_error, skipped)


def hold_out(records: Sequence[Record], share: float) -> tuple[list[Record], list[Record]]:
    """Splits records in two by a hash of what they hold: about a `share` of them is the second.

    The same record is always on the same side, whatever the order and the others are, so that no
    duplicate is on both.
    """

    def is_second(record: Record) -> bool:
        text = json.dumps(record.fields, sort_keys=True, default=str)
        return int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) < share * 2**64

    second = [is_second(record) for record in records]
    return (
        [r for r, held_out in zip(records, second, strict=True) if not held_out],
        [r for r, held_out in zip(records, second, strict=True) if held_out],
    )


def texts_of(record: Record) -> list[str]:
    """Every text in a record, also in lists: what a tokenizer can be trained on."""

    def texts(value: Any) -> Iterator[str]:
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            yield from (text for child in value.values() for text in texts(child))
        elif isinstance(value, list | tuple):
            if all(isinstance(child, str) for child in value):
                yield " ".join(value)
            else:
                yield from (text for child in value for text in texts(child))

    return list(texts(record.fields))


# Files -----------------------------------------------------------------------------------------


def _files(argument: str, split: str, spec: str) -> RecordSource:
    """Files by glob; the suffix, without that of a packed file, says the format."""
    if argument:
        raise UserError(f"data.source='files:{argument}': the files are named by data.{split}")
    paths = files.find(split, spec)
    readers = [_reader(path) for path in paths]

    def records() -> Iterator[Record | UserError]:
        for path, read in zip(paths, readers, strict=True):
            try:
                yield from read(path)
            except files.DAMAGED as error:
                yield files.unreadable(path, error)

    return RecordSource(records, lambda: files.hash_files(paths))


def _reader(path: pathlib.Path) -> Callable[[pathlib.Path], Iterator[Record | UserError]]:
    suffixes = [suffix for suffix in path.suffixes if suffix not in files.PACKED]
    suffix = suffixes[-1].lower() if suffixes else ""
    if suffix not in _FORMATS:
        raise UserError(
            f"{path}: the format {suffix or 'without a suffix'} is unknown; known are "
            f"{', '.join(_FORMATS)}"
        )
    return _FORMATS[suffix]


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


_FORMATS = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _tsv,
    ".conll": _conll,
    ".iob": _conll,
    ".bio": _conll,
    ".conllu": _conllu,
}


# Data sets by name, and the embedded ones ---------------------------------------------------------


def _tfds(argument: str, split: str, spec: str) -> RecordSource:
    """Any TFDS data set: bytes become text, class labels their names."""
    items, paths = sources.open_tfds(argument, split, spec)
    features = items.dataset_info.features
    return RecordSource(
        lambda: (
            Record(f"tfds:{argument}[{spec}]:{i}", _plain(item, features))
            for i, item in enumerate(items)
        ),
        lambda: files.hash_files(paths, paths[0].parent),
    )


def _plain(value: Any, feature: Any = None) -> Any:
    """NumPy's and TFDS's values as Python's own, and class labels as their names."""
    # A sequence passes on what its elements' feature has; and of a sequence of dicts, the values
    # come as a dict of sequences.
    feature = getattr(feature, "feature", feature)
    if isinstance(value, dict):
        of = dict(feature) if hasattr(feature, "keys") else {}
        return {key: _plain(child, of.get(key)) for key, child in value.items()}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(child, feature) for child in value]
    if hasattr(feature, "int2str") and isinstance(value, int):
        return feature.int2str(value) if value >= 0 else value
    return value


def _hugging_face(argument: str, split: str, spec: str) -> RecordSource:
    """Any data set of the Hugging Face Hub; class labels become their names."""
    items, paths = sources.open_hugging_face(argument, split, spec)
    return RecordSource(
        lambda: (
            Record(f"hf:{argument}[{spec}]:{i}", _plain(item, items.features))
            for i, item in enumerate(items)
        ),
        lambda: files.hash_files(paths, paths[0].parent),
    )


def _python_stdlib(argument: str, split: str, spec: str) -> RecordSource:
    """An embedded example, made of the running Python's own standard library."""
    if argument not in embedded.TASKS:
        raise UserError(
            f"data.source='python_stdlib:{argument}' is unknown; choose "
            f"{', '.join(f'python_stdlib:{name}' for name in embedded.TASKS)}"
        )
    if spec:
        raise UserError(f"data.{split}={spec!r} means nothing to python_stdlib; leave it out")
    return RecordSource(
        lambda: (Record(*item) for item in embedded.read(argument, split)),
        lambda: f"{argument} {embedded.fingerprint()}",
    )


_KINDS = {
    "files": _files,
    "tfds": _tfds,
    "hf": _hugging_face,
    "python_stdlib": _python_stdlib,
}
