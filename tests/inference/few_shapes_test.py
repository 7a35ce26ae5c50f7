import numpy as np
import pytest

from lm.data.examples import RowLayout
from lm.inference.few_shapes import Few, FewShapes, batch_of


def test_texts_of_one_length_share_its_shape():
    shapes = FewShapes(longest=100)

    assert list(shapes) == [(4, 32), (2, 64), (1, 96), (1, 100)]
    assert list(shapes.groups([40, 5, 64, 8, 50])) == [
        Few([1, 3], 4, 32),
        Few([0, 2], 2, 64),
        Few([4], 2, 64),
    ]
    assert list(shapes.groups([97])) == [Few([0], 1, 100)]
    assert list(FewShapes(longest=40, row_multiple=2)) == [(4, 32), (2, 40)]


@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_in_one_batch_of_a_shape_that_was_foreseen(seed):
    rng = np.random.default_rng(seed)
    shapes = FewShapes(longest=200)
    sizes = rng.integers(1, 201, int(rng.integers(1, 80))).tolist()

    groups = list(shapes.groups(sizes))

    assert sorted(i for group in groups for i in group.indices) == list(range(len(sizes)))
    assert {(group.num_rows, group.length) for group in groups} <= {*shapes}
    for group in groups:
        assert len(group.indices) <= group.num_rows
        assert max(sizes[i] for i in group.indices) <= group.length
    alone = [next(shapes.groups([size]))[1:] for size in sizes]  # Whoever else is there.
    assert all(alone[i] == group[1:] for group in groups for i in group.indices)


@pytest.mark.parametrize("joined", ["", "LW"])
def test_each_example_has_a_row_of_its_own_in_the_shape(joined):
    examples = [
        {"tokens_BL": [5, 6, 7], "first_BW": [1, 2], "num_words_B": 2},
        {"tokens_BL": [8], "first_BW": [0], "num_words_B": 1},
    ]
    layout = RowLayout({"tokens_BL": 9}, joined, ("first_BW",) if joined else ())

    batch, rows = batch_of(examples, layout, 4, 8)

    assert rows == [[0], [1]]
    assert batch["tokens_BL"].tolist()[:2] == [[5, 6, 7, *[9] * 5], [8, *[9] * 7]]
    assert batch["first_BW"].shape == (4, 8)
    assert batch["num_words_BE" if joined else "num_words_B"].shape == ((4, 1) if joined else (4,))
