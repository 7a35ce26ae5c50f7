"""Stages that find items of evaluations in documents, and take them out; see `decontamination`."""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm.curation import decontamination, evaluation_items, records
from lm.curation.decontamination import Decontamination, Index
from lm.curation.records import Record
from lm.curation.stages import is_dropped
from lm.settings import choose


class Items(NamedTuple):
    """What no document of the corpus should hold: how it is looked for, and what is done."""

    index: Index
    settings: Decontamination
    action: str
    digest: str


def make_items(
    *,
    files: str | Sequence[str],
    fields: str,
    tasks: str,
    include_path: str,
    default_tasks: bool,
    action: str,
    words: int,
    characters: int,
    min_units: int,
    coverage: float,
    max_documents: int,
    max_share: float,
) -> Items | None:
    """Reads the items that a config names; None where it names none.

    Args:
      files, fields, tasks, include_path, default_tasks: see `evaluation_items.read`.
      action: "drop" documents that hold an item, or "cut" their paragraphs that do.
      words, characters, min_units, coverage, max_documents, max_share: see `Decontamination`.

    Raises:
      UserError: a file or task cannot be read, or a number is out of range.
    """
    settings = Decontamination(words, characters, min_units, coverage, max_documents, max_share)
    choose("decontaminate.action", action, ("drop", "cut"))
    if not files and not tasks:
        return None
    found = list(
        evaluation_items.read(
            files=files,
            fields=fields,
            tasks=tasks,
            include_path=include_path,
            default_tasks=default_tasks,
        )
    )
    names = hashlib.sha256("\0".join(text for item in found for text in item).encode())
    index = decontamination.make_index(found, settings)
    return Items(index, settings, action, names.hexdigest())


def frequencies(lines: Iterable[bytes], *, index: Index) -> tuple[int, list[int]]:
    """Counts documents, given as lines of records, and in how many each n-gram of items stands."""
    num_documents = 0

    def texts() -> Iterator[str]:
        nonlocal num_documents
        for line in lines:
            if not is_dropped(line):
                num_documents += 1
                yield records.decode(line).text

    counts_G = decontamination.frequencies(index, texts())
    return num_documents, counts_G.tolist()


def without_common(items: Items, parts: Iterable[tuple[int, Sequence[int]]]) -> Items:
    """Takes out of the items what stands in many documents; see `frequencies` for the parts."""
    nums_documents, counts_SG = zip(*parts, strict=True)
    counts_G = np.sum(counts_SG, axis=0, dtype=np.int64)
    index = decontamination.without_common(
        items.index, counts_G, sum(nums_documents), items.settings
    )
    return items._replace(index=index)


def without_items(record: Record, *, items: Items) -> Record:
    """Drops a document that holds an item, or cuts its paragraphs that do; notes which."""
    found = decontamination.matches(items.index, record.text, items.settings)
    if not found:
        return record
    held = [[match.item, round(match.coverage, 4), match.spans] for match in found]
    record = dataclasses.replace(record, items=held)
    if items.action == "drop":
        return record.drop("decontaminate", "holds_item")
    text = decontamination.cut(record.text, found)
    if not text or text.isspace():
        return record.drop("decontaminate", "holds_item")
    return dataclasses.replace(record, text=text)
