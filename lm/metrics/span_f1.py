"""Scores of entities that were found in rows of tags.

Scores are those of `seqeval`, which is not called, for a run would need it and scikit-learn
installed; tests hold them to it.

Dimension key: S entity types
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from lm.data.tags import entities
from lm.metrics.averages import averages, by_label, precision_recall_f1


def entity_metrics(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str | None = None
) -> dict[str, float]:
    """Scores predicted tags, row by row, from 0 to 1; equal to `seqeval` 1.2.2.

    Args:
      gold: the right tags of each row.
      predicted: as many rows of as many tags.
      scheme: as for `entities`.

    Returns:
      "precision", "recall" and "f1", each with _micro, _macro and _weighted, and "f1/PER" and so
      on for each type that either side has; "token_accuracy", the share of words whose tag is
      right.

    Raises:
      UserError: a tag that is not of the scheme.
    """
    rows = zip(gold, predicted, strict=True)
    right = [g == p for tags in rows for g, p in zip(*tags, strict=True)]
    kinds, counts = _counts(gold, predicted, scheme)
    metrics = averages(*counts) | {"token_accuracy": sum(right) / max(len(right), 1)}
    for name, of_each_S in precision_recall_f1(*counts).items():
        named = zip(kinds, of_each_S, strict=True)
        metrics |= {f"{name}/{kind}": float(score) for kind, score in named}
    return metrics


def by_type(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str | None = None
) -> dict[str, dict[str, float]]:
    """Gives precision, recall, F1 and support of each entity type; see `entity_metrics`."""
    kinds, counts = _counts(gold, predicted, scheme)
    return by_label(kinds, *counts)


def _counts(
    gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], scheme: str | None
) -> tuple[list[str], list[np.ndarray]]:
    """Counts how many of each type are right, predicted and gold; "_" is the type of no name."""
    of_gold, of_predicted, correct = Counter(), Counter(), Counter()
    for gold_tags, predicted_tags in zip(gold, predicted, strict=True):
        # An entity is its type and both ends: one that is found in part is not found.
        expected, found = set(entities(gold_tags, scheme)), set(entities(predicted_tags, scheme))
        of_gold.update(entity.kind for entity in expected)
        of_predicted.update(entity.kind for entity in found)
        correct.update(entity.kind for entity in expected & found)
    kinds = sorted(of_gold | of_predicted)
    counts = [np.array([c[kind] for kind in kinds], int) for c in (correct, of_predicted, of_gold)]
    return [kind or "_" for kind in kinds], counts
