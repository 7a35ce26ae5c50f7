"""Reads words in columns: CoNLL-2003 and its like, and CoNLL-U."""

import pathlib
import re
from collections.abc import Iterator
from typing import Any

from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record
from lm.formats.files import TextLine, text_lines


def _sentences(path: pathlib.Path, max_bytes: int) -> Iterator[list[TextLine] | UserError]:
    """Yields the lines between empty ones; in place of a sentence with a bad line, the error."""
    sentence: list[TextLine] = []
    size, is_good = 0, True
    for line in text_lines(path, max_bytes):
        if isinstance(line, UserError):
            yield line
            sentence, is_good = [], False  # The other lines, before and behind, go with it.
        elif not line.text.strip(" \t"):
            if sentence:
                yield sentence
            sentence, size, is_good = [], 0, True
        elif is_good:
            size += len(line.text)
            sentence.append(line)
            if size > max_bytes:  # A file without empty lines would be one sentence.
                yield files.longer(f"{files.shown(path)}:{sentence[0].number}", max_bytes)
                sentence, is_good = [], False
    if sentence:
        yield sentence


def conll(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads CoNLL-2003 (Tjong Kim Sang and De Meulder 2003): a word a line, its tag last.

    Fields: tokens and tags; pos and chunk too, where there are four columns. Lines of comments
    stand before a sentence: `# key = value`, `# id 7 key=value`, and others that begin with # and
    have not as many columns as a word, so that `# O` is the word "#".
    """
    for sentence in _sentences(path, max_bytes):
        if isinstance(sentence, UserError):
            yield sentence
            continue
        # ASCII alone: words may hold other spaces, as between the digits of a number.
        rows = [(number, re.split("[ \t]+", text.strip(" \t"))) for number, text in sentence]
        rows = [(number, row) for number, row in rows if row[0] != "-DOCSTART-"]
        texts = dict(sentence)
        size = next((len(row) for _, row in rows if not row[0].startswith("#")), 0)
        # At the start alone: further down, "#" is a word.
        while rows and (_KEY.match(texts[rows[0][0]]) or _is_comment(rows[0][1], size)):
            del rows[0]
        odd = [each for each in rows if len(each[1]) < 2 or len(each[1]) != len(rows[0][1])]
        if odd:
            number, row = odd[0]
            yield UserError(
                f"{files.shown(path)}:{number}: {len(row)} columns, where a word and its tag, and "
                "in each line of a sentence as many, are needed; mend the line"
            )
        elif rows:
            columns = list(map(list, zip(*(row for _, row in rows), strict=True)))
            fields = {"tokens": columns[0], "tags": columns[-1]}
            if len(columns) == 4:
                fields |= {"pos": columns[1], "chunk": columns[2]}
            yield Record(f"{files.shown(path)}:{rows[0][0]}", fields)


_KEY = re.compile(r"#\s*[\w.:-]+\s+=(\s|$)")


def _is_comment(row: list[str], size: int) -> bool:
    """Whether the first line of a sentence is a comment, given how many columns its words have."""
    if not row[0].startswith("#"):
        return False
    if row[0] == "#" and re.fullmatch(r"\w+=.*", row[-1]):  # "# id 7 domain=en"
        return True
    if size:
        return len(row) != size
    # Each line of the sentence begins with "#": tags such as O and B-PER are not in lower case.
    return len(row) == 1 or (row[0] == "#" and row[-1].islower())


def conllu(path: pathlib.Path, max_bytes: int) -> Iterator[Record | UserError]:
    """Reads CoNLL-U (Universal Dependencies): tokens, their tags (UPOS), xpos, and space_before."""
    name = files.shown(path)
    for sentence in _sentences(path, max_bytes):
        if isinstance(sentence, UserError):
            yield sentence
            continue
        rows = [(n, text.split("\t")) for n, text in sentence if not text.startswith("#")]
        odd = [number for number, row in rows if len(row) != 10]
        unnumbered = [number for number, row in rows if not _ID.fullmatch(row[0])]
        if odd:
            yield UserError(f"{name}:{odd[0]}: not ten columns between tabs, as CoNLL-U has")
        elif unnumbered:
            yield UserError(
                f"{name}:{unnumbered[0]}: the first column is none of 1, 1-2 and 1.1, as in CoNLL-U"
            )
        elif rows:
            yield Record(f"{name}:{sentence[0].number}", _words([row for _, row in rows]))


_ID = re.compile(r"\d{1,9}([-.]\d{1,9})?", re.ASCII)


def _words(rows: list[list[str]]) -> dict[str, Any]:
    """Makes the fields of a sentence from rows of ten columns."""
    fields: dict[str, Any] = {"tokens": [], "tags": [], "xpos": [], "space_before": []}
    space, range_end, space_after_range = False, 0, True
    for row in rows:
        if "." in row[0]:  # An empty node, such as 8.1, is no word of the text.
            continue
        has_space = "SpaceAfter=No" not in row[9].split("|")
        if "-" in row[0]:  # Of a range, such as 3-4 for "don't", only the space after it counts.
            range_end, space_after_range = int(row[0].split("-")[1]), has_space
            continue
        fields["tokens"].append(row[1])
        fields["tags"].append(row[3])
        fields["xpos"].append(row[4])
        fields["space_before"].append(space)
        inside = int(row[0]) < range_end
        space = True if inside else space_after_range if int(row[0]) == range_end else has_space
    return fields
