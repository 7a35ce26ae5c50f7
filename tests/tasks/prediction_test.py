"""Predictions of a stream of records."""

import collections
import itertools

import pytest

from lm.errors import UserError
from lm.formats.fields import Record
from lm.tasks.prediction import predictions
from lm.tasks.text import CUT


class Trial:
    """A task on words: an example a word, whose output is its length; long words are cut."""

    def __init__(self):
        self.notes = collections.Counter()
        self.num_taken, self.num_at_once = 0, []

    def records(self, texts):
        for i, text in enumerate(texts, start=1):
            self.num_taken = i
            yield UserError(text) if text == "unread" else Record(str(i), {"text": text})

    def read(self, record):
        if record.fields["text"] == "unfit":
            raise UserError("unfit")
        words = record.fields["text"].split()
        self.notes[CUT] += sum(len(word) > 4 for word in words)
        self.notes["words"] += len(words)  # Which says nothing of a cut.
        return words

    def outputs_of(self, words):
        self.num_at_once.append(len(words))
        return [len(word) for word in words]

    def predict(self, records, outputs):
        assert [len(r.fields["text"].split()) for r in records] == list(map(len, outputs))
        return [sum(of_record) for of_record in outputs]

    def run(self, texts):
        records = self.records(texts)
        args = records, self.read, self.notes, self.outputs_of, self.predict
        return predictions(*args, batch_size=2)


def test_order_is_kept_errors_stand_in_their_places_and_what_was_cut_is_told():
    texts = ["a bb", "unread", "", "ccccc dd", "unfit", "e", "unfit", "unread"]

    found = list(Trial().run(texts))

    assert [each.record.name if isinstance(each.record, Record) else None for each in found] == [
        "1",
        None,
        "3",
        "4",
        "5",
        "6",
        "7",
        None,
    ]
    shown = [str(p) if isinstance(p, UserError) else p for p in (each.prediction for each in found)]
    assert shown == [3, "unread", 0, 7, "unfit", 1, "unfit", "unread"]
    assert [each.is_cut for each in found] == [i == 3 for i in range(8)]


def test_predictions_come_while_more_is_to_come_and_little_is_held():
    trial = Trial()
    found = trial.run(itertools.repeat("word"))

    held = []
    for i, _ in enumerate(itertools.islice(found, 10_000), start=1):
        held.append(trial.num_taken - i)

    assert held[0] == 1 and max(held) < 32  # 16 batches of 2.
    assert trial.num_at_once[:6] == [2, 4, 8, 16, 32, 32]


@pytest.mark.parametrize("num", [0, 1, 2, 3, 5, 6, 7, 62, 63])
def test_every_record_gets_one_at_any_end(num):
    texts = ["x" * (i % 4) for i in range(num)]

    assert [each.prediction for each in Trial().run(texts)] == [len(text) for text in texts]
