"""Writes fairlearn.json for fairness_groups_test.py: `pip install fairlearn==0.15.0` and run it."""

import json
import pathlib

import fairlearn
import numpy as np
from fairlearn import metrics
from sklearn.metrics import f1_score, precision_score, recall_score

PARTS = {
    "selection_rate": metrics.selection_rate,
    "tpr": recall_score,
    "fpr": metrics.false_positive_rate,
    "precision": precision_score,
    "f1": f1_score,
}
BETWEEN = {
    f"{of}_{measured}": getattr(metrics, f"{of}_{measured}")
    for of in ("demographic_parity", "equalized_odds")
    for measured in ("difference", "ratio")
}


def main() -> None:
    rng = np.random.default_rng(0)
    cases = []
    for shares in ([0.5, 0.5], [0.2, 0.3, 0.5], [0.1] * 10):
        num = 400
        groups = rng.choice([f"group {i}" for i in range(len(shares))], num, p=shares)
        gold = rng.random(num) < 0.4
        predicted = np.where(rng.random(num) < 0.7, gold, rng.random(num) < 0.5)
        frame = metrics.MetricFrame(
            metrics=PARTS, y_true=gold, y_pred=predicted, sensitive_features=groups
        )
        cases.append(
            {
                "groups": groups.tolist(),
                "gold": gold.astype(int).tolist(),
                "predicted": predicted.astype(int).tolist(),
                "by_group": frame.by_group.to_dict("index"),
                "difference": frame.difference().to_dict(),
                "ratio": frame.ratio().to_dict(),
                "between": {
                    name: float(of(gold, predicted, sensitive_features=groups))
                    for name, of in BETWEEN.items()
                },
            }
        )
    path = pathlib.Path(__file__).with_name("fairlearn.json")
    contents = {"fairlearn": fairlearn.__version__, "cases": cases}
    path.write_text(json.dumps(contents, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
