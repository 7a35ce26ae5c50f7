import numpy as np
import pytest

from lm.data.examples import RowLayout
from lm.inference.few_shapes import Few, FewShapes, batch_of


def test_texts_of_like_length_share_one_of_few_shapes():
    shapes = FewShapes(batch_size=8, longest=100)

    assert list(shapes) == [(n, length) for n in (1, 4, 8) for length in (32, 64, 100)]
    assert list(shapes.groups([40, 5, 100, 8])) == [Few([1, 3, 0, 2], 4, 100)]
    sizes = [70, 3] + [32] * 9
    assert list(shapes.groups(sizes)) == [
        Few([1, *range(2, 9)], 8, 32),
        Few([9, 10, 0], 4, 100),
    ]
    assert list(FewShapes(batch_size=6, longest=20, row_multiple=2)) == [(2, 20), (6, 20)]


@pytest.mark.parametrize("seed", range(5))
def test_every_text_is_in_one_batch_of_a_shape_that_was_foreseen(seed):
    rng = np.random.default_rng(seed)
    shapes = FewShapes(batch_size=16, longest=200)
    sizes = rng.integers(1, 201, int(rng.integers(1, 80))).tolist()

    groups = list(shapes.groups(sizes))

    assert sorted(i for group in groups for i in group.indices) == list(range(len(sizes)))
    assert {(group.num_rows, group.length) for group in groups} <= {*shapes}
    for group in groups:
        assert len(group.indices) <= group.num_rows
        assert max(sizes[i] for i in group.indices) <= group.length


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
