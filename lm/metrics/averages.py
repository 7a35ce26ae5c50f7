"""Precision, recall and F1 from integer counts, and their averages over labels.

Whatever would be divided by 0 is 0, as in scikit-learn with zero_division=0. It is not called here,
for a run would need it installed; tests hold all scores to it.

Dimension key: S labels
"""

from collections.abc import Sequence

import numpy as np

AVERAGES = tuple(
    f"{score}_{over}"
    for score in ("precision", "recall", "f1")
    for over in ("macro", "micro", "weighted")
)


def precision_recall_f1(
    correct_S: np.ndarray, predicted_S: np.ndarray, gold_S: np.ndarray
) -> dict[str, np.ndarray]:
    """Computes "precision", "recall" and "f1" of each label, S each, from 0 to 1.

    Args:
      correct_S: how often the label was predicted rightly.
      predicted_S: how often it was predicted.
      gold_S: how often it should have been.
    """
    return {
        "precision": _ratio(correct_S, predicted_S),
        "recall": _ratio(correct_S, gold_S),
        "f1": _ratio(2 * correct_S, predicted_S + gold_S),
    }


def by_label(
    labels: Sequence[str], correct_S: np.ndarray, predicted_S: np.ndarray, gold_S: np.ndarray
) -> dict[str, dict[str, float]]:
    """Gives each label's precision, recall, F1, and support: how often gold has it."""
    scores = precision_recall_f1(correct_S, predicted_S, gold_S)
    return {
        label: {name: float(of_each_S[s]) for name, of_each_S in scores.items()}
        | {"support": int(gold_S[s])}
        for s, label in enumerate(labels)
    }


def averages(
    correct_S: np.ndarray, predicted_S: np.ndarray, gold_S: np.ndarray
) -> dict[str, float]:
    """Averages over labels (_macro), by `gold_S` (_weighted), and over all (_micro): `AVERAGES`.

    "f1_micro" is the F1 of the labels' summed counts. Without any label, all are 0.
    """
    totals = (x_S.sum(keepdims=True) for x_S in (correct_S, predicted_S, gold_S))
    of_all = precision_recall_f1(*totals)
    averaged = {}
    for name, of_each_S in precision_recall_f1(correct_S, predicted_S, gold_S).items():
        averaged[f"{name}_macro"] = float(of_each_S.sum() / max(len(of_each_S), 1))
        averaged[f"{name}_micro"] = float(of_all[name][0])
        averaged[f"{name}_weighted"] = float(of_each_S @ gold_S / max(gold_S.sum(), 1))
    return averaged


def _ratio(part_S: np.ndarray, whole_S: np.ndarray) -> np.ndarray:
    return part_S / np.maximum(whole_S, 1)  # Counts: where the whole is 0, so is the part.
