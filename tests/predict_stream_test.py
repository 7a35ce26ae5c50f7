"""Predictions of long inputs, by a model that says at once how long each text is."""

import collections
import json
import tracemalloc
import types

import pytest

from configs import predict as predict_config
from experiments import predict
from lm.data.fields import Record


@pytest.fixture
def written(monkeypatch, tmp_path):
    """Predicts for so many texts; gives the lines and the most memory that was held."""
    task = types.SimpleNamespace(
        notes=collections.Counter(), from_text=lambda name, line: Record(name, {"text": line})
    )
    fake = predict.TaskModel(
        task=task,
        batch_size=32,
        read=lambda record: [record.fields["text"]],
        outputs_of=lambda texts: [len(text) for text in texts],
        predict=lambda records, outputs: [sum(each) for each in outputs],
    )
    monkeypatch.setattr(predict, "_open", lambda config: fake)

    def run(num):
        config = predict_config.get_config()
        source, target = tmp_path / f"{num}.jsonl", tmp_path / f"{num}.out"
        with source.open("w") as file:
            file.writelines(
                json.dumps({"id": i, "text": "x" * (i % 50)}) + "\n" for i in range(num)
            )
        config.update(checkpoint="a run", input=str(source), output=str(target))
        tracemalloc.start()
        assert predict.run(config, None) == 0
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return [json.loads(line) for line in target.read_text().splitlines()], peak

    return run


def test_order_is_kept_and_memory_does_not_grow_with_the_input(written):
    written(300)  # Whatever is imported and kept at first.
    few, peak_of_few = written(2_000)
    many, peak_of_many = written(8_000)

    for lines in (few, many):
        assert [line["id"] for line in lines] == list(range(len(lines)))
        assert all(line["name"].endswith(f":{i}") for i, line in enumerate(lines, start=1))
        assert [line["prediction"] for line in lines] == [i % 50 for i in range(len(lines))]
    assert peak_of_many < 1.3 * peak_of_few
