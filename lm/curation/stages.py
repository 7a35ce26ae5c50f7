"""Stages: what happens to a document, one after the other, as functions of lines.

A stage that decides of documents one by one is `each`, with a function of a record. One that
compares documents sorts what it compares them by, and `decided` takes its decisions back to them.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lm.curation import language, private_data, records, shards
from lm.curation.records import Record
from lm.curation.repair import repair

ChangeFn = Callable[[Record], Record]
# As it stands in the line of a record that was dropped, and never inside of a string of JSON.
_DROPPED = b',"stage":"'


def is_dropped(line: bytes) -> bool:
    """Whether the record of a line has met its end."""
    return _DROPPED in line


def each(lines: Iterable[bytes], *, change: ChangeFn) -> Iterator[bytes]:
    """Changes the record of each document that is not dropped yet; none is left out."""
    for line in lines:
        yield line if is_dropped(line) else records.encode(change(records.decode(line)))


def repaired(record: Record, *, encoding: bool, controls: bool) -> Record:
    """Mends the text; see `repair`."""
    text = repair(record.text, encoding=encoding, controls=controls)
    if not text or text.isspace():
        return record.drop("repair", "empty")
    return dataclasses.replace(record, text=text)


def told(record: Record, *, keep: tuple[str, ...]) -> Record:
    """Tells the language, and drops what is in none of those to keep; () keeps all."""
    found = language.detect(record.text)
    share = round(found.shares.get(found.language, 0.0), 4)
    record = dataclasses.replace(
        record, language=found.language, measures=record.measures | {"language_share": share}
    )
    is_kept = not keep or found.language in keep
    return record if is_kept else record.drop("language", "other_language")


def masked(record: Record, *, kinds: tuple[str, ...]) -> Record:
    """Masks private data of these kinds; see `private_data.mask`."""
    text, counts = private_data.mask(record.text, kinds)
    return dataclasses.replace(record, text=text, masked=counts)


# Equal texts -----------------------------------------------------------------------------------


def by_text(task: tuple[pathlib.Path]) -> Iterator[bytes]:
    """Yields a line for each document, whose id is the hash of the text as it is by now."""
    for line in shards.read(task[0]):
        if not is_dropped(line):
            record = records.decode(line)
            yield records.line(
                {
                    "id": records.digest(record.text),
                    "source": record.source,
                    "place": record.place,
                    "key": record.id,
                }
            )


def equal_texts(task: tuple[pathlib.Path]) -> Iterator[bytes]:
    """Yields decisions: of documents with one text, the first by source and place is kept."""
    first: dict[str, Any] = {}
    copies = 1
    for fields in map(json.loads, shards.read(task[0])):  # Sorted, so equal ones are neighbours.
        if first and fields["id"] == first["id"]:
            copies += 1
            yield _decision(fields, reason="equal_text", of=first["key"])
            continue
        if copies > 1:
            yield _decision(first, copies=copies)
        first, copies = fields, 1
    if copies > 1:
        yield _decision(first, copies=copies)


def _decision(fields: dict[str, Any], **decided: Any) -> bytes:
    key = {"id": fields["key"], "source": fields["source"], "place": fields["place"]}
    return records.line(key | decided)


def decided(lines: Iterable[bytes], decisions: Iterable[bytes], *, stage: str) -> Iterator[bytes]:
    """Takes decisions to their documents: what to drop by which reason, and what to note.

    A decision has the key of a document; with a `reason` it drops it; other fields replace those of
    the record. Both are sorted by key, and a document has one decision at most.
    """
    waiting = map(json.loads, decisions)
    decision = next(waiting, None)
    for line in lines:
        if decision is None or is_dropped(line):
            yield line
            continue
        record = records.decode(line)
        if record.key != (decision["id"], decision["source"], decision["place"]):
            yield line
            continue
        reason = decision.pop("reason", "")
        decision["measures"] = record.measures | decision.pop("measures", {})
        record = dataclasses.replace(record, **decision)
        yield records.encode(record.drop(stage, reason) if reason else record)
        decision = next(waiting, None)
    assert decision is None, f"a decision without its document: {decision}"


# The corpus ------------------------------------------------------------------------------------


def kept(task: tuple[pathlib.Path]) -> Iterator[bytes]:
    """Yields the documents of a corpus, each by the hash of its text: what users read."""
    for line in shards.read(task[0]):
        if not is_dropped(line):
            record = records.decode(line)
            fields = {"id": records.digest(record.text), "source": record.source}
            fields |= {"language": record.language or records.UNKNOWN, "copies": record.copies}
            yield records.line(fields | {"text": record.text})


def of_split(lines: Iterable[bytes], *, split: str, validation_share: float) -> Iterator[bytes]:
    """Yields the documents of one split; by its id, a document always belongs to the same."""
    for line in lines:
        # Digits of the id from behind: those at its beginning choose the shard.
        digits = line[len(b'{"id":"') + 24 : len(b'{"id":"') + 32]
        is_held_out = int(digits, 16) < validation_share * 2**32
        if is_held_out == (split == "validation"):
            yield line


def without_text(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields records as they are told of: all but their text."""
    for line in lines:
        yield records.encode(dataclasses.replace(records.decode(line), text="", head=""))
