#!/bin/bash
# Guess: the true positive rate of a group without a positive example is not defined, and no model
#   is called unfair because of it.
# Instead: it is 0, so that equalized_odds_difference of a model without an error is the largest
#   that there is; and demographic_parity_difference of three classes takes label 1 for the positive
#   one.
# Versions: fairlearn 0.15.0, scikit-learn 1.9.1, Python 3.11. Date: 2026-12-01.
# Output seen:
#   true positive rates {'a': 1.0, 'b': 0.0}, equalized_odds_difference 1.0
#   of classes 0, 1 and 2: demographic_parity_difference 0.5
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fairlearn==0.15.0 scikit-learn==1.9.1
"$folder/venv/bin/python" - <<'PY'
from fairlearn import metrics

groups = ["a"] * 4 + ["b"] * 4
gold = [1, 1, 0, 0, 0, 0, 0, 0]  # Predicted without an error.
frame = metrics.MetricFrame(
    metrics=metrics.true_positive_rate, y_true=gold, y_pred=gold, sensitive_features=groups
)
rates = {name: float(rate) for name, rate in frame.by_group.items()}
odds = float(metrics.equalized_odds_difference(gold, gold, sensitive_features=groups))
print(f"true positive rates {rates}, equalized_odds_difference {odds}")
three = [0, 1, 1, 2, 0, 2, 2, 2]
parity = float(metrics.demographic_parity_difference(three, three, sensitive_features=groups))
print(f"of classes 0, 1 and 2: demographic_parity_difference {parity}")
assert rates == {"a": 1.0, "b": 0.0} and odds == 1.0, "changed"
assert parity == 0.5, "changed"
PY
