"""Rows of new tokens: where they stand, and of which old ones they are made."""

import numpy as np
import pytest
from scipy import sparse

from lm.models import new_rows
from lm.tokenizers import token_vectors


def params(num_rows):
    table = np.arange(num_rows * 2, dtype=np.float32).reshape(num_rows, 2)
    return {"token_embedding": table, "output_bias": table[:, 0], "final_norm": {"scale": table[0]}}


@pytest.mark.parametrize(
    ("num_rows", "size", "expected"),
    [
        (3, 5, "old old old new new"),
        (4, 5, "old old old new new"),
        (7, 8, "old old old new new unused unused more"),
        (7, 7, "old old old new new unused unused"),
        (3, 6, "old old old new new more"),
    ],
)
def test_new_rows_follow_the_old_ones_and_what_is_spare_stays(num_rows, size, expected):
    before = params(num_rows)
    marked = lambda path, old: np.full((2, *old.shape[1:]), -1)

    after = new_rows.grow(before, marked, 3, 2, size)

    assert after["final_norm"] == before["final_norm"]
    for name in ("token_embedding", "output_bias"):
        was, now = before[name], after[name]
        assert now.dtype == was.dtype
        mean = was[:3].mean(axis=0)
        kinds = {"old": was, "new": -np.ones_like(now), "unused": was, "more": [mean] * size}
        np.testing.assert_array_equal(now, [kinds[k][i] for i, k in enumerate(expected.split())])


def test_means_of_pieces_count_each_piece_as_often_as_it_is_there():
    weights = new_rows.mean_of_pieces([[1, 2], [0], [2, 2, 1]], 3).toarray()

    np.testing.assert_allclose(weights, [[0, 1 / 2, 1 / 2], [1, 0, 0], [0, 1 / 3, 2 / 3]])
    old = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 0.0]], np.float32)
    rows = new_rows.combining(sparse.csr_array(weights))((), old)
    np.testing.assert_allclose(rows[0], [4, 2])
    np.testing.assert_allclose(new_rows.mean(2)((), old), [[3, 2]] * 2)


def test_sparsemax_is_the_nearest_point_of_the_simplex():
    scores = np.random.default_rng(0).normal(size=(50, 6))

    nearest = new_rows.sparsemax(scores)

    np.testing.assert_allclose(new_rows.sparsemax(np.array([[1.0, 0.8, -1.0]])), [[0.6, 0.4, 0]])
    np.testing.assert_allclose(nearest.sum(axis=1), 1)
    assert nearest.min() == 0
    others = np.random.default_rng(1).dirichlet(np.ones(6), size=(50, 200))
    distance = lambda points: np.sum((points - scores[:, None]) ** 2, axis=-1)
    assert np.all(distance(nearest[:, None]) <= distance(others))


@pytest.mark.parametrize("block", [1, 1024])
def test_focus_takes_similar_old_tokens_and_else_the_mean_of_pieces(block):
    vectors = np.array([[1, 0], [0, 0], [0, 2], [3, 0.1], [0, 0]], float)  # Three are old.
    pieces = new_rows.mean_of_pieces([[1], [1, 2]], 3)

    weights = new_rows.focus(vectors, 3, pieces, block=block).toarray()
    unknown = new_rows.focus(vectors * [[0], [0], [0], [1], [1]], 3, pieces, block=block)

    assert weights[0, 0] > 0.9
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights[1], [0, 0.5, 0.5])
    np.testing.assert_allclose(unknown.toarray(), pieces.toarray())


def test_tokens_that_stand_among_the_same_ones_have_near_vectors():
    rng = np.random.default_rng(0)
    # 0 and 1 stand among 2, 3, 4; 5 and 6 among 7, 8, 9; 10 is rare, and 11 is nowhere.
    one = lambda pair, around: np.concatenate([rng.choice(around, 5), rng.choice(pair, 1)])
    texts = [
        np.concatenate([one(*kind) for _ in range(40)])
        for kind in [([0, 1], [2, 3, 4]), ([5, 6], [7, 8, 9])]
        for _ in range(3)
    ]
    texts.append(np.array([10, 0]))

    vectors = token_vectors.by_neighbours(texts, 12, width=4)

    assert not vectors[[10, 11]].any()
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    similar = unit @ unit.T
    assert min(similar[0, 1], similar[5, 6]) > 0.9 > 0.3 > np.abs(similar[:2, 5:7]).max()
    np.testing.assert_array_equal(token_vectors.by_neighbours(texts, 12, width=4), vectors)
    assert not token_vectors.by_neighbours([], 12).any()
    assert token_vectors.by_neighbours(texts[:1], 12).shape == (12, 64)


def test_vectors_have_the_singular_values_of_positive_information():
    ids = np.random.default_rng(0).choice(5, 120, p=[0.4, 0.3, 0.1, 0.1, 0.1])
    vectors = token_vectors.by_neighbours([ids], 5, width=3)

    counts = np.zeros((5, 5))
    for i, j in np.ndindex(len(ids), len(ids)):
        counts[ids[i], ids[j]] += 0 < abs(i - j) <= 5
    sums = counts.sum(axis=1)
    with np.errstate(divide="ignore"):
        positive = np.maximum(np.log(counts * counts.sum() / np.outer(sums, sums)), 0)
    assert np.all(np.bincount(ids, minlength=5) >= 5)
    expected = np.linalg.svd(positive)[1][:3]
    np.testing.assert_allclose(np.sort(np.sum(vectors**2, axis=0))[::-1], expected, atol=1e-9)
