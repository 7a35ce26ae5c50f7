"""Records: what is known of each document, on its way from an input to its fate."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple

UNKNOWN = "unknown"  # The language of a document that was lost before it was asked for.
_HEAD_CHARS = 200


class Found(NamedTuple):
    """A text that an input holds, and where: a path, path:line, or an address."""

    text: str
    place: str


class Lost(NamedTuple):
    """What an input holds and nobody can read: where, the name of the reason, and its bytes.

    head: what there is instead, for whoever asks what is lost.
    """

    place: str
    reason: str
    num_bytes: int = 0
    head: str = ""


@dataclasses.dataclass(slots=True)
class Record:
    """A document, or what was lost of one. Its key is (id, source, place).

    id: BLAKE2b-128 of the text in UTF-8 as it was read, in hexadecimal digits.
    source: the name of its input; place: where it stands there.
    num_bytes: of the text as it was read; of a loss, of what could not be read.
    stage, reason: what dropped it, and why; "" while nobody has.
    language: its label; measures: numbers that stages took of it; masked: counts by kind.
    of: of a duplicate, the id of the one that is kept; copies: how many it stands for, itself too.
    items: of evaluations that it held: [name, coverage, spans]; see `decontamination.Match`.
    head: the beginning of a text that was dropped, for whoever asks what is lost.
    text: as the last stage left it; "" once it is dropped.
    """

    id: str
    source: str
    place: str
    num_bytes: int
    stage: str = ""
    reason: str = ""
    language: str = ""
    measures: dict[str, float] = dataclasses.field(default_factory=dict)
    masked: dict[str, int] = dataclasses.field(default_factory=dict)
    of: str = ""
    copies: int = 1
    items: list[list[Any]] = dataclasses.field(default_factory=list)
    head: str = ""
    text: str = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """Gives what no other record of a corpus shares."""
        return self.id, self.source, self.place

    def drop(self, stage: str, reason: str) -> "Record":
        """Gives the record of a document that a stage dropped."""
        return dataclasses.replace(
            self, stage=stage, reason=reason, head=self.text[:_HEAD_CHARS], text=""
        )


def digest(text: str) -> str:
    """Gives BLAKE2b-128 of a text, in hexadecimal digits."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def from_input(source: str, item: Found | Lost) -> Record:
    """Makes the record that a document, or the loss of one, begins as."""
    if isinstance(item, Lost):
        name = digest(f"{source}\0{item.place}\0{item.reason}")  # Spread over shards as others.
        return Record(name, source, item.place, item.num_bytes, "read", item.reason, head=item.head)
    size = len(item.text.encode())
    record = Record(digest(item.text), source, item.place, size, text=item.text)
    is_empty = not item.text or item.text.isspace()
    return record.drop("read", "empty") if is_empty else record


def encode(record: Record) -> bytes:
    """Gives a line of JSON, of what is not as in a new record; its key comes first.

    So lines that are sorted as bytes are sorted by id.
    """
    fields = {name: getattr(record, name) for name in _FIELDS}
    kept = {k: v for k, v in fields.items() if k not in _DEFAULTS or v != _DEFAULTS[k]}
    return line(kept)


def line(fields: dict[str, Any]) -> bytes:
    """Gives an object as a line of JSON."""
    return _ENCODER.encode(fields).encode() + b"\n"


def decode(data: bytes) -> Record:
    """Inverts `encode`."""
    return Record(**json.loads(data))


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FIELDS = [field.name for field in dataclasses.fields(Record)]
_DEFAULTS = dataclasses.asdict(Record("", "", "", 0))
for _name in ("id", "source", "place", "num_bytes"):
    del _DEFAULTS[_name]
