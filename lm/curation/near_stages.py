"""Near-duplicates of a corpus: the steps of `duplicates` over sorted shards.

Each function is what a sort emits for one task, a tuple of paths of shards.
"""

import base64
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lm.curation import duplicates, records, shards
from lm.curation.duplicates import Contested, NearDuplicates
from lm.curation.stages import is_dropped

Paths = tuple[pathlib.Path, ...]


def band_keys(task: Paths, *, settings: NearDuplicates) -> Iterator[bytes]:
    """Documents -> a line for each band of each, by its key."""
    for line in shards.read(task[0]):
        if not is_dropped(line):
            sketch = duplicates.sketch(records.decode(line).text, settings)
            for key in sketch.keys:
                # Most lines of all stages are these; as JSON they would cost more than the sketch.
                yield f'{{"id":"{key}","rank":"{sketch.rank}"}}\n'.encode()


def memberships(task: Paths) -> Iterator[bytes]:
    """Keys of bands -> a line for each bucket of each document in one with others, by its text."""
    keys = ((str(line[7:23], "ascii"), str(line[33:73], "ascii")) for line in shards.read(task[0]))
    for each in duplicates.memberships(keys):
        yield records.line({"id": duplicates.hash_of(each.rank)} | each._asdict())


def components(task: Paths) -> Iterator[bytes]:
    """Memberships of all shards -> a line with the component of each document, by its text."""
    fields = map(json.loads, itertools.chain.from_iterable(map(shards.read, task)))
    links = ((each["rank"], each["first"]) for each in fields)
    for rank, component in duplicates.components(links):
        yield records.line({"id": duplicates.hash_of(rank), "component": component})


def _groups(path: pathlib.Path) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    lines = map(json.loads, shards.read(path))
    for name, group in itertools.groupby(lines, key=lambda fields: fields["id"]):
        yield name, list(group)


def contested_documents(task: Paths) -> Iterator[bytes]:
    """Texts, memberships, components -> a line with the latter two for each document, by its id."""
    texts = map(json.loads, shards.read(task[0]))
    text: dict[str, Any] = {"id": ""}
    for (name, memberships), (same, component) in zip(*map(_groups, task[1:]), strict=True):
        assert name == same, (name, same)
        while text["id"] < name:  # Of equal texts the first is the one that was kept.
            text = next(texts)
        assert text["id"] == name, f"no document has the text {name}"
        buckets = [[each["key"], each["is_last"]] for each in memberships]
        key = {"id": text["key"], "source": text["source"], "place": text["place"]}
        yield records.line(
            key
            | {
                "rank": memberships[0]["rank"],
                "component": component[0]["component"],
                "buckets": buckets,
            }
        )


def by_component(task: Paths, *, settings: NearDuplicates) -> Iterator[bytes]:
    """Documents, and which are contested -> a line with the n-grams of each such."""
    contested = map(json.loads, shards.read(task[1]))
    waiting = next(contested, None)
    for line in shards.read(task[0]):
        if waiting is None:
            return
        if is_dropped(line):
            continue
        record = records.decode(line)
        if record.key != (waiting["id"], waiting["source"], waiting["place"]):
            continue
        ngrams_G = duplicates.ngrams(record.text, settings)
        key = {"id": waiting["component"], "rank": waiting["rank"], "key": record.id}
        yield records.line(
            key
            | {
                "source": record.source,
                "place": record.place,
                "copies": record.copies,
                "buckets": waiting["buckets"],
                "dtype": ngrams_G.dtype.str,
                "ngrams": base64.b64encode(ngrams_G.tobytes()).decode(),
            }
        )
        waiting = next(contested, None)
    assert waiting is None, f"no document has the key of {waiting}"


def decisions(task: Paths, *, settings: NearDuplicates) -> Iterator[bytes]:
    """Contested documents, component by component -> decisions; see `stages.decided`."""
    lines = map(json.loads, shards.read(task[0]))
    for _, group in itertools.groupby(lines, key=lambda fields: fields["id"]):
        yield from _decide(group, settings)


def _decide(component: Iterable[dict[str, Any]], settings: NearDuplicates) -> Iterator[bytes]:
    seen: dict[str, dict[str, Any]] = {}  # By rank, without n-grams.

    def contested() -> Iterator[Contested]:
        for fields in component:
            ngrams_G = np.frombuffer(base64.b64decode(fields.pop("ngrams")), fields["dtype"])
            rank = fields["rank"]
            seen[rank] = fields
            yield Contested(rank, fields["buckets"], ngrams_G)

    kept = {}
    for decision in duplicates.survivors(contested(), settings):
        fields = seen[decision.rank]
        if not decision.of:
            kept[decision.rank] = decision, fields["copies"]
            continue
        first, copies = kept[decision.of]
        kept[decision.of] = first, copies + fields["copies"]
        measures = {"similarity": round(decision.similarity, 4)}
        yield _line(fields, reason="near_duplicate", of=seen[decision.of]["key"], measures=measures)
    for decision, copies in kept.values():
        fields = seen[decision.rank]
        noted = {} if decision.is_compared else {"measures": {"not_compared": 1}}
        noted |= {"copies": copies} if copies != fields["copies"] else {}
        if noted:
            yield _line(fields, **noted)


def _line(fields: dict[str, Any], **decided: Any) -> bytes:
    key = {"id": fields["key"], "source": fields["source"], "place": fields["place"]}
    return records.line(key | decided)
