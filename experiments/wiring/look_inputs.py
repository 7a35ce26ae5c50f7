"""What looks read, and what they find."""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.data import unlabelled
from lm.errors import UserError
from lm.formats.fields import Record
from lm.interpret import capture, page
from lm.interpret import subject as subject_lib
from lm.interpret.subject import Subject, Text
from lm.system import free_memory

Settings = Mapping[str, Any]  # The config.


class Found(NamedTuple):
    """What was seen, mostly in one text.

    name: of the text, or of what else it is about.
    """

    name: str
    values: dict[str, Any]  # For interpret.json.
    arrays: dict[str, np.ndarray]  # For interpret.npz.
    blocks: list[page.Block]  # For interpret.html.


def read_texts(subject: Subject, given: Settings) -> list[Text]:
    """Reads `texts`, or those of `texts_file`; of neither, a short one to list sites of."""
    if given["what"] in ("probes", "induction"):  # Of words, and of random tokens.
        return []
    read = functools.partial(subject_lib.read, subject, is_whole=given["what"] == "tokens")
    if given["texts_file"]:
        records = read_records(subject, given["texts_file"], given)
    else:
        texts = given["texts"] or ("Is there anything to see?",)
        from_text = subject_lib.from_text(subject)
        records = (from_text(f"text {i}", one) for i, one in enumerate(texts, start=1))
    found = [text for record in records for text in read(record)]
    if not found:
        raise UserError(f"texts_file={given['texts_file']} holds no text; give another")
    return found


def read_records(subject: Subject, name: str, given: Settings) -> Iterator[Record]:
    """Reads the records of a file; raises UserError at the first that cannot be read."""
    records = unlabelled.read(
        pathlib.Path(name),
        given["texts_format"],
        given["max_document_bytes"],
        subject_lib.from_text(subject),
        functools.partial(print, file=sys.stderr),
    )
    for record in records:
        if isinstance(record, UserError):
            raise record
        yield record


def size(num_bytes: int) -> str:
    """1234567 -> "1.2 MB"."""
    power = min(max((len(str(num_bytes)) - 1) // 3, 0), 4)
    return f"{num_bytes / 1000**power:.{1 if power else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def check_room(
    subject: Subject, texts: Sequence[Text], sites_of: Callable[[Subject, Text], Mapping[str, Any]]
) -> None:
    """Says how much a capture holds at once, and raises UserError where there is not so much."""
    held = max(capture.num_bytes(sites_of(subject, text).values()) for text in texts)
    free = free_memory.free_bytes()
    print(f"at once are held: {size(held)}")
    if free is not None and held > free:
        raise UserError(
            f"what is to be seen takes {size(held)}, and {size(free)} of memory are free; give "
            "shorter texts"
        )
