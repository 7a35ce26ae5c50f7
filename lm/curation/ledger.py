"""The ledger: how many documents and bytes came to which end, by source and language.

Ledgers of parts are added up in any order and grouping, so that of a corpus does not depend on who
counted which part.
"""

import collections
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from lm.curation import records


class Cell(NamedTuple):
    """Where a count belongs; `stage` and `reason` are "" of documents that were kept."""

    source: str
    language: str
    stage: str
    reason: str


class Count(NamedTuple):
    """Documents, and their bytes as they were read."""

    documents: int = 0
    num_bytes: int = 0


class Ledger(NamedTuple):
    """Counts by cell."""

    counts: dict[Cell, Count]

    def __add__(self, other: "Ledger") -> "Ledger":
        total = dict(self.counts)
        for cell, count in other.counts.items():
            before = total.get(cell, Count())
            total[cell] = Count(*map(sum, zip(before, count, strict=True)))
        return Ledger(total)


def cell_of(record: records.Record) -> Cell:
    """Gives the one place where a document ended."""
    return Cell(record.source, record.language or records.UNKNOWN, record.stage, record.reason)


def count(lines: Iterable[bytes]) -> Ledger:
    """Counts records, given as lines."""
    documents: collections.Counter[Cell] = collections.Counter()
    num_bytes: collections.Counter[Cell] = collections.Counter()
    for line in lines:
        record = records.decode(line)
        cell = cell_of(record)
        documents[cell] += 1
        num_bytes[cell] += record.num_bytes
    return Ledger({cell: Count(documents[cell], num_bytes[cell]) for cell in documents})


def count_rows(lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """Counts records as `count` does, and gives the ledger as `rows` does."""
    return rows(count(lines))


def total(ledgers: Iterable[Ledger]) -> Ledger:
    """Adds ledgers up."""
    return sum(ledgers, Ledger({}))


def rows(ledger: Ledger) -> list[dict[str, Any]]:
    """Gives the ledger as a table, sorted."""
    return [cell._asdict() | count._asdict() for cell, count in sorted(ledger.counts.items())]


def by(ledger: Ledger, names: Sequence[str]) -> dict[tuple[str, ...], Count]:
    """Adds up all cells that agree in some of their fields."""
    found: dict[tuple[str, ...], Count] = {}
    for cell, count in ledger.counts.items():
        key = tuple(getattr(cell, name) for name in names)
        found[key] = Count(*map(sum, zip(found.get(key, Count()), count, strict=True)))
    return found


def of_rows(table: Iterable[dict[str, Any]]) -> Ledger:
    """Inverts `rows`."""
    return Ledger(
        {
            Cell(*(row[name] for name in Cell._fields)): Count(row["documents"], row["num_bytes"])
            for row in table
        }
    )
