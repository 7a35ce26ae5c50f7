"""Documents, and how one that is too long to be tokenized at once is cut into parts."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

LONG_CHARS = 1_000_000  # Tokenizers take some twenty times the memory of a text.
_NEAR = 10_000  # How far back from there most texts have a good place.
# A cut before a space between words, or behind the end of a line: there no token begins in one
# part and ends in the other, with the tokenizers that are in use.
_BEFORE_A_SPACE = re.compile(r"(?<=\w)(?= [^\W\d_])")
_BEHIND_A_LINE = re.compile(r"(?<=[^\s]\n)(?=[^\W\d_])")


class Document(NamedTuple):
    """One text, and the name that errors call it by: a path, or path:line.

    Of a text too long to be held at once, each part is one; `goes_on` in all of them but the last.
    """

    text: str
    name: str
    goes_on: bool = False


def cut_long(documents: Iterable[Document]) -> Iterator[Document]:
    """Cuts documents into parts of at most LONG_CHARS, of which the last does not go on.

    The parts make up the text, and depend on nothing else, however it came in parts before.
    """
    held: list[str] = []
    size = 0
    for document in documents:
        held.append(document.text)
        size += len(document.text)
        if document.goes_on and size <= LONG_CHARS:
            continue  # Joined only once there is enough: to join at each part would be quadratic.
        text = "".join(held)
        start = 0
        while len(text) - start > LONG_CHARS:
            end = _place(text, start)
            yield Document(text[start:end], document.name, True)
            start = end
        text = text[start:]
        if document.goes_on:
            held, size = [text], len(text)
        else:
            yield document._replace(text=text)
            held, size = [], 0


def _place(text: str, start: int) -> int:
    """Chooses where to cut a text that is longer than LONG_CHARS from `start` on."""
    # Before the last space between two words, else behind the last line, first near the end and
    # then in the second half; else anywhere but inside of what is one character to a reader.
    end, half = start + LONG_CHARS, start + LONG_CHARS // 2
    for first in (end - _NEAR, half):
        for pattern in (_BEFORE_A_SPACE, _BEHIND_A_LINE):
            # Its lookahead may see one character behind the last place.
            found = [m.start() for m in pattern.finditer(text, max(first, start + 1), end + 1)]
            if found and found[-1] < end:
                return found[-1]
    at = end
    while at > half and _belongs_to(text[at - 1], text[at]):  # Half, lest a part be empty.
        at -= 1
    return at


def _belongs_to(before: str, character: str) -> bool:
    """Whether there is no cut between two characters: accents, joined emoji, CR LF."""
    is_mark = unicodedata.category(character) in ("Mn", "Mc", "Me", "Cf", "Sk")
    return is_mark or before == "\u200d" or before + character == "\r\n"
