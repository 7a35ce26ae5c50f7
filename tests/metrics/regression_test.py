import math

import numpy as np
import pytest
import scipy.stats

from lm.metrics.regression import REGRESSION, regression


@pytest.mark.parametrize("scale, shift", [(1, 0), (1e-6, 0), (1e6, 0), (1, 1e5)])
@pytest.mark.parametrize("rounded", [False, True])
def test_correlations_are_those_of_scipy(scale, shift, rounded):
    rng = np.random.default_rng(0)
    gold_N = rng.normal(size=100)
    predicted_N = gold_N + rng.normal(size=100)
    if rounded:  # Ties.
        gold_N, predicted_N = np.round(gold_N), np.round(predicted_N)
    gold_N, predicted_N = gold_N * scale + shift, predicted_N * scale + shift

    assert regression(gold_N, predicted_N) == pytest.approx(
        {
            "pearson": scipy.stats.pearsonr(gold_N, predicted_N).statistic,
            "spearman": scipy.stats.spearmanr(gold_N, predicted_N).statistic,
            "mse": np.mean((gold_N - predicted_N) ** 2),
        },
        rel=1e-9,
    )


def test_the_order_of_examples_changes_no_bit():
    rng = np.random.default_rng(0)
    gold_N, predicted_N = rng.normal(size=(2, 1000)).astype(np.float32)
    gold_N[:500] = gold_N[500]
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(1000)
        assert regression(gold_N[order], predicted_N[order]) == regression(gold_N, predicted_N)


def test_what_is_constant_has_no_correlation():
    for gold_N, predicted_N in [([0.1] * 7, range(7)), (range(7), [0.1] * 7), ([1], [2])]:
        found = regression(np.array(gold_N), np.array(predicted_N))
        assert math.isnan(found["pearson"]) and math.isnan(found["spearman"])
        assert math.isfinite(found["mse"])


def test_nan_stays_nan():
    found = regression(np.arange(4.0), np.array([1, math.nan, 2, 3]))
    assert all(math.isnan(value) for value in found.values())


def test_a_perfect_prediction_is_one():
    found = regression(np.arange(10) / 7, np.arange(10) / 7)
    assert tuple(found) == REGRESSION
    assert found == {"pearson": pytest.approx(1), "spearman": pytest.approx(1), "mse": 0}
