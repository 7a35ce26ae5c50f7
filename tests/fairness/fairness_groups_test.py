import json
import pathlib

import numpy as np
import pytest

from lm.fairness import groups
from lm.metrics import intervals

THEIRS = json.loads((pathlib.Path(__file__).parent / "fairlearn.json").read_text())


@pytest.mark.parametrize("case", THEIRS["cases"], ids=("two", "three", "ten"))
def test_measures_are_those_of_fairlearn(case):
    gold, predicted = (np.array(case[name], bool) for name in ("gold", "predicted"))

    found = groups.compare(gold, predicted, case["groups"], seed=0)

    assert found["by_group"].keys() == case["by_group"].keys()
    for name, theirs in case["by_group"].items():
        for metric, value in theirs.items():
            assert found["by_group"][name][metric]["value"] == pytest.approx(value, abs=1e-9)
    between = found["between_groups"]
    for measured in ("difference", "ratio"):
        for metric, value in case[measured].items():
            assert between[f"{metric}_{measured}"]["value"] == pytest.approx(value, abs=1e-9)
    for name, value in case["between"].items():
        assert between[name]["value"] == pytest.approx(value, abs=1e-9)


def compare(*rows):
    """Of (group, gold, predicted, how often)."""
    repeated = [row[:3] for row in rows for _ in range(row[3])]
    names, gold, predicted = zip(*repeated, strict=True)
    return groups.compare(np.array(gold, bool), np.array(predicted, bool), names, seed=0)


def test_what_divides_by_nothing_says_why():
    """fairlearn gives a group without positives a true positive rate of 0, and so a difference."""
    found = compare(("a", 1, 1, 8), ("a", 1, 0, 2), ("a", 0, 0, 30), ("b", 0, 0, 16))

    a, b = found["by_group"]["a"], found["by_group"]["b"]
    between = found["between_groups"]
    assert (a["tpr"]["value"], a["small"], b["small"], b["num"]) == (0.8, False, True, 16)
    assert b["tpr"] == {
        "value": None,
        "interval": None,
        "reason": "group 'b' has no positive example",
    }
    assert b["precision"]["reason"] == "group 'b' has no example that is predicted positive"
    assert b["fpr"]["value"] == 0 < b["fpr"]["interval"][1]
    assert between["equalized_odds_difference"]["value"] is None
    assert between["equalized_odds_difference"]["reason"] == b["tpr"]["reason"]
    assert between["selection_rate_difference"]["value"] == 0.2
    assert between["selection_rate_ratio"]["value"] == 0
    assert between["fpr_ratio"]["reason"] == "it is 0 in every group"


def test_one_group_is_compared_with_nothing():
    found = compare(("a", 1, 1, 3), ("a", 0, 1, 2))

    assert found["by_group"]["a"]["tpr"]["value"] == 1
    for measure in found["between_groups"].values():
        assert (measure["value"], measure["reason"]) == (None, "there is one group, 'a'")


def test_a_group_of_one_has_wide_intervals():
    found = compare(("a", 1, 1, 1), ("b", 1, 0, 40), ("b", 0, 0, 40))

    assert found["by_group"]["a"]["small"]
    assert found["by_group"]["a"]["selection_rate"]["interval"][0] < 0.25
    low, high = found["between_groups"]["selection_rate_difference"]["interval"]
    assert low < 0.25 and high >= 1.0


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of two groups, together 200 examples, of the same rates and of others."""
    rates = {"a": (0.5, 0.8, 0.3), "b": (0.4, 0.6, 0.3)}  # Positive, TPR, FPR.
    sizes = {"a": 120, "b": 80}
    truth = {}
    for name, (positive, tpr, fpr) in rates.items():
        tp, fp, fn = positive * tpr, (1 - positive) * fpr, positive * (1 - tpr)
        truth[name] = {"selection_rate": tp + fp, "tpr": tpr, "fpr": fpr}
        truth[name] |= {"precision": tp / (tp + fp), "f1": 2 * tp / (2 * tp + fp + fn)}
    rng = np.random.default_rng(0)
    names = [name for name, size in sizes.items() for _ in range(size)]
    positive, tpr, fpr = np.array([rates[name] for name in names]).T
    held = dict.fromkeys(groups.METRICS, 0) | dict.fromkeys(("tpr between", "fpr between"), 0)
    held |= dict.fromkeys(("selection_rate between", "precision between", "f1 between"), 0)
    holds = lambda measure, value: measure["interval"][0] - 1e-12 <= value <= measure["interval"][1]
    for seed in range(1000):
        gold = rng.random(200) < positive
        predicted = rng.random(200) < np.where(gold, tpr, fpr)
        found = groups.compare(gold, predicted, names, seed)
        for metric in groups.METRICS:
            of_a = found["by_group"]["a"][metric]
            held[metric] += holds(of_a, truth["a"][metric])
            between = found["between_groups"][f"{metric}_difference"]
            difference = abs(truth["a"][metric] - truth["b"][metric])
            held[f"{metric} between"] += holds(between, difference)

    assert min(held.values()) >= 930, held


def test_the_widest_difference_may_be_none():
    assert intervals.widest([(-0.1, 0.3)]) == (0, 0.3)
    assert intervals.widest([(-0.5, -0.2), (0.1, 0.3)]) == (0.2, 0.5)
