import numpy as np
import pytest

from lm.data.examples import (
    ExampleBatches,
    RowLayout,
    collate,
    evaluation_batches,
    lay_out,
    outputs_by_example,
    shared_rows,
)
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


ALONE, SHARED = RowLayout({}), RowLayout({"tokens_BL": -9}, "LW", ("first_BW",))


def words(n, label=0):
    """An example of n tokens, every second of which is a word's first."""
    first_W = np.arange(0, n, 2)
    return {"tokens_BL": np.arange(1, n + 1), "first_BW": first_W, "label_B": label}


def test_examples_that_share_a_row_follow_one_another():
    examples = [words(5, 7), words(3, 8), words(2, 9)]

    batch, rows = lay_out(examples, SHARED, multiple=8, row_multiple=3)

    assert rows == [[0, 1], [2]]
    filled = [[1, 2, 3, 4, 5, 1, 2, 3], [1, 2, *[-9] * 6], [-9] * 8]
    assert batch["tokens_BL"].tolist() == filled
    assert batch["first_BW"].tolist() == [[0, 2, 4, 5, 7, 0, 0, 0], [0] * 8, [0] * 8]
    assert batch["label_BE"].tolist() == [[7, 8], [9, 0], [0, 0]]


def test_rows_are_as_wide_as_the_longest_of_all_examples():
    examples = [words(n) for n in (5, 1, 2, 3, 3, 1)]
    batches = ExampleBatches(
        examples, layout=SHARED, multiple=4, batch_size=2, row_multiple=2, seed=0
    )

    shapes = {batch["tokens_BL"].shape for batch in batches.iterate(0, 6)}

    assert shapes == {(2, 8)}


@pytest.mark.parametrize("num_texts", [1, 3, 100])
def test_rows_hold_no_more_than_they_may_and_every_text_once(num_texts):
    sizes = np.random.default_rng(0).integers(1, 17, 200).tolist()

    rows = shared_rows(sizes, 16, num_texts)

    assert sorted(i for row in rows for i in row) == list(range(200))
    assert max(sum(sizes[i] for i in row) for row in rows) <= 16
    assert max(map(len, rows)) <= num_texts
    if num_texts == 100:  # Johnson's bound, beside what no packing can beat.
        assert len(rows) <= 11 / 9 * -(-sum(sizes) // 16) + 1


@pytest.mark.parametrize("layout", [ALONE, SHARED])
def test_outputs_of_rows_are_those_of_their_examples(layout):
    examples = [words(n, label=i) for i, n in enumerate((3, 1, 2, 5, 4, 1, 1))]
    batches = evaluation_batches(examples, layout=layout, multiple=4, batch_size=3)
    results = [(rows, {k.replace("_B", "_out_B"): x for k, x in b.items()}) for rows, b in batches]

    found = outputs_by_example(results, examples, layout)

    assert sorted(found) == list(range(7))
    label = "label_out_BE" if layout.joined else "label_out_B"
    for i, example in enumerate(examples):
        assert found[i]["tokens_out_BL"].tolist() == example["tokens_BL"].tolist()
        assert len(found[i]["first_out_BW"]) == len(example["first_BW"])
        assert found[i][label] == i


def make_batches(num_examples=10, batch_size=4, seed=0):
    examples = [example(1 + i % 3, label=i) for i in range(num_examples)]
    sizes = dict(multiple=4, batch_size=batch_size, row_multiple=1)
    return ExampleBatches(examples, layout=ALONE, seed=seed, **sizes)


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
    sizes = dict(multiple=4, batch_size=batch_size)
    for rows, batch in evaluation_batches(examples, layout=ALONE, **sizes):
        index = [i for (i,) in rows]
        assert len(batch["label_B"]) == batch_size
        assert batch["label_B"][: len(index)].tolist() == index
        assert not batch["tokens_BL"][len(index) :].any()
        seen += index
    assert sorted(seen) == list(range(10))
