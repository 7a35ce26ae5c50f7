"""What a corpus is like: the ledger, measures of its documents, and samples of what was dropped.

Summaries of parts are added up in any order and grouping, as ledgers are.
"""

import collections
import heapq
import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from lm.curation import ledger as ledger_lib
from lm.curation import records
from lm.curation.ledger import Ledger
from lm.curation.records import Record
from lm.curation.thresholds import Thresholds

_NUM_SAMPLES, _NUM_CLUSTERS, _NUM_EXAMPLES = 5, 20, 3
_HEAD_CHARS = 200
Histogram = collections.Counter[float]


class Summary(NamedTuple):
    """Of some records.

    ledger: of all.
    histograms: (measure, language, fate) -> how many documents have each value, to two digits; the
      fate is "kept", or "stage: reason".
    samples: (stage, reason, language) -> documents with the least ids, and so the same whoever
      counts.
    clusters: the documents that stand for most others.
    written: (source, language) -> documents that were kept, their bytes as they were written, and
      how many documents they stand for.
    masked: private data by kind.
    """

    ledger: Ledger
    histograms: dict[tuple[str, str, str], Histogram]
    samples: dict[tuple[str, str, str], list[tuple]]
    clusters: list[tuple]
    written: dict[tuple[str, str], tuple[int, int, int]]
    masked: collections.Counter[str]

    def __add__(self, other: "Summary") -> "Summary":
        histograms = dict(self.histograms)
        for key, histogram in other.histograms.items():
            histograms[key] = histograms.get(key, Histogram()) + histogram
        samples = dict(self.samples)
        for key, found in other.samples.items():
            samples[key] = heapq.nsmallest(_NUM_SAMPLES, [*samples.get(key, []), *found])
        written = dict(self.written)
        for key, counts in other.written.items():
            written[key] = tuple(map(sum, zip(written.get(key, (0, 0, 0)), counts, strict=True)))
        return Summary(
            self.ledger + other.ledger,
            histograms,
            samples,
            heapq.nsmallest(_NUM_CLUSTERS, [*self.clusters, *other.clusters]),
            written,
            self.masked + other.masked,
        )


def nothing() -> Summary:
    """Gives the summary of no records."""
    return Summary(Ledger({}), {}, {}, [], {}, collections.Counter())


def summarize(lines: Iterable[bytes]) -> Summary:
    """Summarises records, given as lines; holds one at a time, and what is counted."""
    counts: dict[ledger_lib.Cell, list[int]] = {}
    total = nothing()
    for line in lines:
        record = records.decode(line)
        count = counts.setdefault(ledger_lib.cell_of(record), [0, 0])
        count[0] += 1
        count[1] += record.num_bytes
        fate = f"{record.stage}: {record.reason}" if record.stage else "kept"
        language = record.language or records.UNKNOWN
        for name, value in record.measures.items():
            histogram = total.histograms.setdefault((name, language, fate), Histogram())
            histogram[two_digits(value)] += 1
        head = record.head or record.text[:_HEAD_CHARS]
        sample = (record.id, record.source, record.place, head, record.of)
        kept = total.samples.setdefault((record.stage, record.reason, language), [])
        _keep_least(kept, sample, _NUM_SAMPLES)
        total.masked.update(record.masked)
        if not record.stage:
            _count_kept(total, record, language, head)
    cells = {cell: ledger_lib.Count(*count) for cell, count in counts.items()}
    return total._replace(ledger=Ledger(cells))


def summarize_as_json(lines: Iterable[bytes]) -> dict[str, Any]:
    """Calls `summarize`, and gives what JSON can hold; `of_json` reads it."""
    found = summarize(lines)
    listed = lambda table: [[*key, value] for key, value in table.items()]
    return {
        "ledger": ledger_lib.rows(found.ledger),
        "histograms": listed({key: [*h.items()] for key, h in found.histograms.items()}),
        "samples": listed(found.samples),
        "clusters": found.clusters,
        "written": listed(found.written),
        "masked": found.masked,
    }


def of_json(found: Mapping[str, Any]) -> Summary:
    """Inverts `summarize_as_json`."""
    tuples = lambda rows: [tuple(row) for row in rows]
    return Summary(
        ledger_lib.of_rows(found["ledger"]),
        {tuple(key): Histogram(dict(values)) for *key, values in found["histograms"]},
        {tuple(key): tuples(rows) for *key, rows in found["samples"]},
        tuples(found["clusters"]),
        {tuple(key): tuple(counts) for *key, counts in found["written"]},
        collections.Counter(found["masked"]),
    )


def _count_kept(total: Summary, record: Record, language: str, head: str) -> None:
    before = total.written.get((record.source, language), (0, 0, 0))
    here = (1, len(record.text.encode()), record.copies)
    total.written[record.source, language] = tuple(map(sum, zip(before, here, strict=True)))
    if record.copies > 1:
        cluster = (-record.copies, record.id, record.source, record.place, language, head)
        _keep_least(total.clusters, cluster, _NUM_CLUSTERS)


def _keep_least(kept: list[tuple], item: tuple, most: int) -> None:
    if len(kept) < most or item < kept[-1]:
        kept.append(item)
        kept.sort()
        del kept[most:]


def two_digits(value: float) -> float:
    """Rounds to two digits: 1234 -> 1200.0, 0.0567 -> 0.057."""
    if not value or not math.isfinite(value):
        return float(value)
    return round(float(value), 1 - math.floor(math.log10(abs(value))))


def examples(lines: Iterable[bytes], *, ids: frozenset[str]) -> dict[str, list[tuple]]:
    """Finds for some kept documents the first of those that they stand for."""
    found: dict[str, list[tuple]] = {}
    for line in lines:
        if b',"of":"' in line:
            record = records.decode(line)
            if record.of in ids:
                similarity = record.measures.get("similarity", 1.0)
                item = (record.id, record.source, record.place, similarity, record.head)
                _keep_least(found.setdefault(record.of, []), item, _NUM_EXAMPLES)
    return found


def add_examples(parts: Iterable[dict[str, list[tuple]]]) -> dict[str, list[tuple]]:
    """Adds up what `examples` found in parts."""
    total: dict[str, list[tuple]] = {}
    for part in parts:
        for of, found in part.items():
            total[of] = heapq.nsmallest(_NUM_EXAMPLES, [*total.get(of, []), *found])
    return total


def report(
    summary: Summary,
    of_clusters: dict[str, list[tuple]],
    stages: Iterable[str],
    thresholds: Thresholds,
) -> dict[str, Any]:
    """Gives a summary as JSON has it; docs/curation.md says what is there."""
    of_sample = ("id", "source", "place", "head", "of")
    of_cluster = ("id", "source", "place", "language", "head")
    of_example = ("id", "source", "place", "similarity", "head")
    return {
        "ledger": ledger_lib.rows(summary.ledger),
        "waterfall": _waterfall(summary.ledger, list(stages)),
        "written": [
            dict(zip(("source", "language", "documents", "num_bytes", "copies"), row, strict=True))
            for row in sorted((*key, *counts) for key, counts in summary.written.items())
        ],
        "masked": dict(sorted(summary.masked.items())),
        "measures": [
            {"measure": key[0], "language": key[1], "fate": key[2], "values": sorted(h.items())}
            for key, h in sorted(summary.histograms.items())
        ],
        "thresholds": thresholds,
        "clusters": [
            dict(zip(of_cluster, each, strict=True))
            | {"copies": -negative}
            | {
                "examples": [
                    dict(zip(of_example, x, strict=True)) for x in of_clusters.get(each[0], [])
                ]
            }
            for negative, *each in summary.clusters
        ],
        "samples": [
            {"stage": stage, "reason": reason, "language": language}
            | {"documents": [dict(zip(of_sample, each, strict=True)) for each in found]}
            for (stage, reason, language), found in sorted(summary.samples.items())
        ],
    }


def _waterfall(ledger: Ledger, stages: list[str]) -> list[dict[str, Any]]:
    """Gives what is left behind each stage, by language: of those lost before, it is unknown."""
    rows = []
    for index, stage in enumerate(stages):
        lost = {*stages[: index + 1]}
        left = {cell: n for cell, n in ledger.counts.items() if cell.stage not in lost}
        for (language,), count in sorted(ledger_lib.by(Ledger(left), ("language",)).items()):
            rows.append({"stage": stage, "language": language} | count._asdict())
    return rows
