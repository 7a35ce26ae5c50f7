"""Probes beside scikit-learn, and on a feature that was planted.

Dimension key: W words, D model width, S labels.
"""

import numpy as np
import pytest
import sklearn.linear_model

from lm.errors import UserError
from lm.interpret import probes
from lm.metrics import intervals


@pytest.mark.parametrize("num_labels", [2, 4])
@pytest.mark.parametrize("inverse_l2", [0.1, 10.0])
def test_a_probe_is_that_of_scikit_learn(num_labels, inverse_l2):
    rng = np.random.default_rng(0)
    x_WD = rng.standard_normal((80, 6))
    labels_W = (x_WD[:, 0] * 2 + rng.standard_normal(80)).astype(int) % num_labels
    theirs = sklearn.linear_model.LogisticRegression(C=inverse_l2, tol=1e-9, max_iter=5000)

    expected_WS = theirs.fit(x_WD, labels_W).predict_proba(x_WD)
    ours = probes.fit(x_WD, labels_W, num_labels, inverse_l2=inverse_l2)

    if num_labels == 2:  # Their two labels have one vector, whose penalty is not that of two.
        halved = sklearn.linear_model.LogisticRegression(C=2 * inverse_l2, tol=1e-9, max_iter=5000)
        expected_WS = halved.fit(x_WD, labels_W).predict_proba(x_WD)
    np.testing.assert_allclose(ours.probabilities(x_WD), expected_WS, atol=1e-3)


def test_a_planted_feature_is_found_and_control_labels_are_chance():
    """The parity of a token's number is one direction; which word it is says nothing of others."""
    rng = np.random.default_rng(1)
    at = {split: rng.permutation(200)[:100] + 200 * (split == "new") for split in ("old", "new")}
    directions = rng.standard_normal((2, 8))
    x = {s: directions[n % 2] + 0.1 * rng.standard_normal((100, 8)) for s, n in at.items()}
    words = {s: [f"word{n}" for n in numbers] for s, numbers in at.items()}
    control = {s: probes.control_labels(of, np.array([1, 1])) for s, of in words.items()}

    scores = probes.score(
        x["old"],
        x["new"],
        at["old"] % 2,
        at["new"] % 2,
        control["old"],
        control["new"],
        num_labels=2,
        inverse_l2=1.0,
    )

    assert scores.accuracy >= 0.99 and scores.low > 0.94 and scores.high == 1
    low, high = intervals.wilson(round(100 * scores.control), 100)
    assert low <= 0.5 <= high
    assert scores.selectivity == scores.accuracy - scores.control


def test_control_labels_are_of_kinds_of_words_and_as_frequent_as_labels():
    words = [f"w{i}" for i in range(4000)] * 2
    labels_W = probes.control_labels(words, np.array([3, 1]))

    np.testing.assert_array_equal(labels_W[:4000], labels_W[4000:])
    assert abs(labels_W.mean() - 0.25) < 0.03


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["a"] * 9, "1 label, a; a probe needs two"), (["a", "b", "c"], "3 words for 3 labels")],
)
def test_what_cannot_be_told_apart_is_refused(labels, message):
    with pytest.raises(UserError, match=message):
        probes.check_labels(labels)
