"""Predicts records without labels, in their order, while more of them are still to come."""

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
    """A record and its prediction, or why there is none."""

    record: Record | UserError  # Why it could not be read.
    prediction: Any | UserError  # As JSON has it; why the record does not suit the task.
    is_cut: bool  # Whether the task read but a part of its text.


def predictions(
    records: Iterable[Record | UserError],
    read: Callable[[Record], list[Features]],
    notes: collections.Counter[str],
    outputs_of: Callable[[list[Features]], Sequence[Outputs]],
    predict: Callable[[list[Record], list[list[Outputs]]], list[Any]],
    *,
    batch_size: int,
) -> Iterator[Predicted]:
    """Predicts each record, in their order; holds one batch of them at first, and up to 16 later.

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
        # The first predictions come at once; later, examples of like length share a batch.
        size = min(2 * size, _MOST_BATCHES * batch_size)


def _of_chunk(chunk, read, notes, outputs_of, predict) -> Iterator[Predicted]:
    said: dict[int, Any] = {}  # By the place of the record in the chunk.
    spans: dict[int, slice] = {}  # The examples of a record.
    examples: list[Features] = []
    cut: set[int] = set()
    for i, record in enumerate(chunk):
        num_cut = notes[CUT]
        try:
            if isinstance(record, UserError):
                raise record
            found = read(record)
        except UserError as error:
            said[i] = error
            continue
        spans[i] = slice(len(examples), len(examples) + len(found))
        examples += found
        if notes[CUT] > num_cut:
            cut.add(i)
    outputs = outputs_of(examples) if examples else []  # All at once, so that batches are full.
    if spans:
        good = [chunk[i] for i in spans]
        values = predict(good, [list(outputs[span]) for span in spans.values()])
        said.update(zip(spans, values, strict=True))
    for i, record in enumerate(chunk):
        yield Predicted(record, said[i], i in cut)
