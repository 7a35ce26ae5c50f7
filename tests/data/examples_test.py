import numpy as np
import pytest

from lm.data.examples import ExampleBatches, collate, evaluation_batches
from lm.errors import UserError


def example(n, label=0):
    return {"tokens_BL": np.arange(1, n + 1), "label_B": label, "share_BS": np.full(2, 0.5)}


def test_a_batch_is_filled_up_at_the_ends_and_below():
    batch = collate([example(3, 7), example(1)], fill={"tokens_BL": -9}, multiple=4, size=3)

    assert batch["tokens_BL"].tolist() == [[1, 2, 3, -9], [1, -9, -9, -9], [-9] * 4]
    assert batch["label_B"].tolist() == [7, 0, 0]
    assert batch["share_BS"].tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    assert {name: x.dtype.name for name, x in batch.items()} == {
        "tokens_BL": "int32",
        "label_B": "int32",
        "share_BS": "float32",
    }


@pytest.mark.parametrize(("longest", "length"), [(1, 8), (8, 8), (9, 16)])
def test_lengths_are_those_of_the_longest_rounded_up(longest, length):
    batch = collate([example(1), example(longest)], fill={}, multiple=8, size=2)

    assert batch["tokens_BL"].shape == (2, length)


def make_batches(num_examples=10, batch_size=4, seed=0):
    examples = [example(1 + i % 3, label=i) for i in range(num_examples)]
    return ExampleBatches(examples, fill={}, multiple=4, batch_size=batch_size, seed=seed)


def labels(batches, steps):
    return np.concatenate([batch["label_B"] for batch in batches.iterate(0, steps)])


def test_every_epoch_holds_every_example_once_and_in_another_order():
    seen = labels(make_batches(), 5)

    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_a_batch_depends_on_the_step_and_the_seed_alone():
    batches = make_batches()

    late = next(iter(batches.iterate(3, 4)))
    assert (
        late["label_B"].tolist()
        == batches.rows_at(3).tolist()
        == labels(batches, 5)[12:16].tolist()
    )
    assert labels(make_batches(seed=1), 5).tolist() != labels(batches, 5).tolist()


def test_fewer_examples_than_a_batch_are_refused():
    with pytest.raises(UserError, match="3 examples, fewer than"):
        make_batches(num_examples=3)


@pytest.mark.parametrize("batch_size", [1, 3, 4, 16])
def test_evaluation_sees_each_example_once_with_its_index(batch_size):
    examples = [example(1 + i * 7 % 5, label=i) for i in range(10)]

    seen = []
    for index, batch in evaluation_batches(examples, fill={}, multiple=4, batch_size=batch_size):
        assert len(batch["label_B"]) == batch_size
        assert batch["label_B"][: len(index)].tolist() == index.tolist()
        assert not batch["tokens_BL"][len(index) :].any()
        seen += index.tolist()
    assert sorted(seen) == list(range(10))
