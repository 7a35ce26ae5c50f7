"""Stages that judge how a document reads: its measures, and the thresholds that they must keep."""

import collections
import dataclasses
import json
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

from lm.curation import language, quality, readers
from lm.curation.ledger import Ledger
from lm.curation.records import Lost, Record
from lm.curation.thresholds import THRESHOLDS, Thresholds
from lm.errors import UserError
from lm.formats import files
from lm.settings import choose
from lm.system.progress_bar import say

_KINDS = ("none", "published")
_MIN_TRUSTED = 100  # Texts of a language; of fewer a quantile says nothing.


def make_thresholds(
    *, thresholds: str, trusted: str, field: str, max_drop: float, mend: Callable[[str], str]
) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    """Gives thresholds by language; documents in other languages pass.

    Args:
      thresholds: "none"; "published", those of `lm.curation.thresholds`; or a file of JSON:
        {"sw": {"num_units": [20, null], ...}}.
      trusted: globs of good text, by which those of its languages are set anew; "": none.
      field: of the text in records of `trusted`.
      max_drop: the share of that text that they may drop.
      mend: does to a text what the stages before the judgement do.

    Raises:
      UserError: a file cannot be read, or has no thresholds or no text.
    """
    if thresholds.endswith(".json"):
        found = _read(pathlib.Path(thresholds))
    else:
        choose("quality.thresholds", thresholds, (*_KINDS, "FILE.json"))
        found = dict(THRESHOLDS) if thresholds == "published" else {}
    if trusted:
        found |= _calibrated(trusted, field, max_drop, mend)
    return found


def _read(path: pathlib.Path) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    key = f"quality.thresholds={path}"
    try:
        tree = json.loads(path.read_bytes())
        bounds = {
            name: {measure: (least, most) for measure, (least, most) in each.items()}
            for name, each in tree.items()
        }
    except OSError as error:
        raise UserError(f"{key} cannot be read: {error.strerror}") from None
    except (ValueError, AttributeError, TypeError, RecursionError):
        raise UserError(
            f'{key} must hold {{"LANGUAGE": {{"MEASURE": [LEAST, MOST]}}}}, null for no bound'
        ) from None
    for each in bounds.values():
        for measure, both in each.items():
            choose(f"{key}: the measure", measure, quality.SIDES)
            if not all(x is None or (isinstance(x, int | float) and x == x) for x in both):
                raise UserError(f"{key}: {measure} must have two numbers, or null")
            if None not in both and both[0] > both[1]:
                raise UserError(
                    f"{key}: {measure} must be at least {both[0]} and at most {both[1]}, which "
                    "nothing is; write [LEAST, MOST]"
                )
    # The first that is out of bounds is the reason, and the cache does not know their order.
    return {
        name: {measure: each[measure] for measure in quality.SIDES if measure in each}
        for name, each in bounds.items()
    }


def _calibrated(
    trusted: str, field: str, max_drop: float, mend: Callable[[str], str]
) -> dict[str, dict[str, tuple[float | None, float | None]]]:
    measures: dict[str, list[dict[str, float]]] = {}
    lost: collections.Counter[str] = collections.Counter()
    for path in files.find("", trusted, key="quality.trusted"):
        kind = readers.kind_of(path)
        if kind not in ("text", *readers.OF_FIELDS):
            raise UserError(f"quality.trusted: {path} is no file of text or records")
        options = {"field": field} if kind in readers.OF_FIELDS else {}
        reader = (readers.OF_TEXT | readers.OF_FIELDS)[kind]
        for item in reader(path, max_bytes=files.MAX_DOCUMENT_BYTES, **options):
            if isinstance(item, Lost):
                lost[item.reason] += 1
            elif (text := mend(item.text)).strip():
                of = measures.setdefault(language.detect(text).language, [])
                of.append(_measures(text))
            else:
                lost["empty"] += 1
    _say("quality.trusted: left out, for they cannot be read,", dict(sorted(lost.items())))
    enough = {name: of for name, of in sorted(measures.items()) if len(of) >= _MIN_TRUSTED}
    counts = {name: len(of) for name, of in sorted(measures.items())}
    _say("quality.trusted: thresholds are set by", {name: counts[name] for name in enough})
    few = {name: count for name, count in counts.items() if name not in enough}
    _say(f"quality.trusted: too few to set any, of {_MIN_TRUSTED} needed,", few)
    if not enough:
        raise UserError(
            f"quality.trusted={trusted!r} has {_MIN_TRUSTED} texts of no language; give more"
        )
    return {name: quality.calibrate(of, max_drop) for name, of in enough.items()}


def _say(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        say(f"{what} {', '.join(f'{count:,} {name}' for name, count in counts.items())}")


def measured(record: Record) -> Record:
    """Measures how a document reads; see `quality.measure`."""
    return dataclasses.replace(record, measures=record.measures | _measures(record.text))


def _measures(text: str) -> dict[str, float]:
    # Rounded, so that the provenance is half as large; thresholds are set by rounded ones, too.
    return {name: round(value, 6) for name, value in quality.measure(text).items()}


def judged(record: Record, *, thresholds: Thresholds) -> Record:
    """Drops a document whose measures are out of the bounds of its language."""
    bounds: Mapping[str, Any] = thresholds.get(record.language, {})
    reason = quality.judge(record.measures, bounds)
    return record.drop("quality", reason) if reason else record


def not_judged(ledger: Ledger, thresholds: Thresholds, later: Collection[str]) -> dict[str, int]:
    """Counts by language the documents that no thresholds are known for, and that so pass.

    Args:
      ledger: of all documents.
      thresholds: by language.
      later: the stages that come after the judgement, where what passes it may end.
    """
    found: collections.Counter[str] = collections.Counter()
    for cell, count in ledger.counts.items():
        if cell.stage in ("", *later) and cell.language not in thresholds:
            found[cell.language] += count.documents
    return dict(sorted(found.items()))
