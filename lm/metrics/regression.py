"""Metrics of predicted numbers.

Dimension key: N examples
"""

import warnings
from collections.abc import Callable

import numpy as np

REGRESSION = ("pearson", "spearman", "mse")


def regression(gold_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    """Computes "pearson", "spearman" and "mse" of N, N: in float64, equal in any order of examples.

    Correlations are those of SciPy, from -1 to 1 (Pearson 1895, Spearman 1904). One with something
    constant, or of fewer than two examples, is undefined: it is NaN, and the caller must say so. So
    is everything if a number is NaN.
    """
    from scipy import stats  # Slow to import.

    # Sums of floats depend on their order in the last bits, so there is one order.
    order = np.lexsort((predicted_N, gold_N))
    gold_N = np.asarray(gold_N, np.float64)[order]
    predicted_N = np.asarray(predicted_N, np.float64)[order]
    return {
        "pearson": _correlation(stats.pearsonr, gold_N, predicted_N),
        "spearman": _correlation(stats.spearmanr, gold_N, predicted_N),
        "mse": float(np.mean(np.square(gold_N - predicted_N))),
    }


def _correlation(of: Callable, gold_N: np.ndarray, predicted_N: np.ndarray) -> float:
    if len(gold_N) < 2:
        return float("nan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NaN says it.
        return float(of(gold_N, predicted_N).statistic)
