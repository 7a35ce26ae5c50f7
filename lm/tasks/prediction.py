"""Predictions for records without labels: in their order, while more of them are still to come."""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from lm.data.examples import Features
from lm.data.records import Record
from lm.errors import UserError
from lm.tasks.task import Outputs
from lm.tasks.text import CUT

_MOST_BATCHES = 16


class Predicted(NamedTuple):
    """What is said of a record.

    record: the record, or why it could not be read.
    prediction: as JSON has it; of a record that does not suit the task, why.
    is_cut: whether the task read but a part of its text.
    """

    record: Record | UserError
    prediction: Any | UserError
    is_cut: bool


def predictions(
    records: Iterable[Record | UserError],
    read: Callable[[Record], list[Features]],
    notes: collections.Counter[str],
    outputs_of: Callable[[list[Features]], Sequence[Outputs]],
    predict: Callable[[list[Record], list[list[Outputs]]], list[Any]],
    *,
    batch_size: int,
) -> Iterator[Predicted]:
    """One for each record, in their order.

    As many records are held as one batch has; then twice as many each time, up to 16 batches, so
    that the first predictions come at once and examples of like length share a batch later on.

    Args:
      records: without labels, as far as the task needs none.
      read, notes: of the task; `notes[CUT]` grows where a record that is read is cut.
      outputs_of: examples -> what the model says of each.
      predict: records and the outputs of the examples of each -> predictions.
      batch_size: examples in a batch.
    """
    records, size = iter(records), batch_size
    while chunk := list(itertools.islice(records, size)):
        yield from _of_chunk(chunk, read, notes, outputs_of, predict)
        size = min(2 * size, _MOST_BATCHES * batch_size)


def _of_chunk(chunk, read, notes, outputs_of, predict) -> Iterator[Predicted]:
    errors: dict[int, UserError] = {}
    spans: dict[int, tuple[int, int]] = {}  # The examples of a record.
    examples: list[Features] = []
    cut: set[int] = set()
    for i, record in enumerate(chunk):
        num_cut = notes[CUT]
        try:
            if isinstance(record, UserError):
                raise record
            found = read(record)
        except UserError as error:
            errors[i] = error
            continue
        spans[i] = len(examples), len(examples) + len(found)
        examples += found
        if notes[CUT] > num_cut:
            cut.add(i)
    outputs = outputs_of(examples) if examples else []
    good = [chunk[i] for i in spans]
    of_each = [[outputs[e] for e in range(*span)] for span in spans.values()]
    values = dict(zip(spans, predict(good, of_each) if good else [], strict=True))
    for i, record in enumerate(chunk):
        yield Predicted(record, errors[i] if i in errors else values[i], i in cut)
