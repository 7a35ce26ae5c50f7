"""How well numbers were predicted.

Dimension key: N examples
"""

import numpy as np


def regression(gold_N: np.ndarray, predicted_N: np.ndarray) -> dict[str, float]:
    """N, N -> "pearson", "spearman" and "mse", in float64 and equal in any order of the examples.

    A correlation with something constant, or of fewer than two examples, is undefined: it is NaN,
    as in scipy, and the caller must say so. So is everything if a number is NaN.
    """
    # Sums of floats depend on their order in the last bits, so there is one order.
    order = np.lexsort((predicted_N, gold_N))
    gold_N = np.asarray(gold_N, np.float64)[order]
    predicted_N = np.asarray(predicted_N, np.float64)[order]
    return {
        "pearson": _pearson(gold_N, predicted_N),
        "spearman": _spearman(gold_N, predicted_N),
        "mse": float(np.mean(np.square(gold_N - predicted_N))),
    }


def _pearson(gold_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """N, N -> the correlation coefficient, from -1 to 1 (Pearson 1895)."""
    if any((x_N == x_N[:1]).all() for x_N in (gold_N, predicted_N)):
        return float("nan")  # Rounding could make a constant's deviations differ from 0.
    units = []
    for x_N in (gold_N, predicted_N):
        deviation_N = x_N - x_N.mean()
        units.append(deviation_N / np.linalg.norm(deviation_N))
    return float(np.clip(units[0] @ units[1], -1.0, 1.0))


def _spearman(gold_N: np.ndarray, predicted_N: np.ndarray) -> float:
    """N, N -> the correlation of the ranks, from -1 to 1 (Spearman 1904); equals share a rank."""
    if np.isnan(gold_N).any() or np.isnan(predicted_N).any():
        return float("nan")  # Sorting would give NaN a rank.
    return _pearson(_ranks(gold_N), _ranks(predicted_N))


def _ranks(x_N: np.ndarray) -> np.ndarray:
    """1 for the lowest; equal numbers get the mean of their ranks: 7 5 7 -> 2.5 1 2.5."""
    _, inverse_N, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse_N]
