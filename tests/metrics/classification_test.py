import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from sklearn import metrics as reference

from lm.metrics.classification import (
    MULTI_LABEL,
    SINGLE_LABEL,
    confusion,
    confusion_svg,
    multi_label,
    single_label,
)

AVERAGES = ("macro", "micro", "weighted")


def draw(num_labels, size=200, seed=0, used=None):
    """Labels of which some never occur, or only on one side."""
    rng = np.random.default_rng(seed)
    gold_N = rng.integers(0, used or num_labels, size)
    return gold_N, np.where(rng.random(size) < 0.5, gold_N, rng.integers(0, num_labels, size))


def sklearn_averages(gold, predicted):
    found = {}
    for average in AVERAGES:
        *scores, _ = reference.precision_recall_fscore_support(
            gold, predicted, average=average, zero_division=0
        )
        for name, score in zip(("precision", "recall", "f1"), scores, strict=True):
            found[f"{name}_{average}"] = score
    return found


@pytest.mark.parametrize("num_labels, used", [(2, None), (7, None), (7, 4), (50, 3), (3, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_single_labels_score_as_in_scikit_learn(num_labels, used, seed):
    gold_N, predicted_N = draw(num_labels, seed=seed, used=used)
    counts_SS = confusion(gold_N, predicted_N, num_labels)

    labels = range(num_labels)
    np.testing.assert_array_equal(
        counts_SS, reference.confusion_matrix(gold_N, predicted_N, labels=labels)
    )
    assert single_label(counts_SS) == pytest.approx(
        sklearn_averages(gold_N, predicted_N)
        | {
            "accuracy": reference.accuracy_score(gold_N, predicted_N),
            "matthews": reference.matthews_corrcoef(gold_N, predicted_N),
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("rate", [0, 0.02, 0.5])
def test_several_labels_score_as_in_scikit_learn(rate):
    rng = np.random.default_rng(0)
    gold_NS, predicted_NS = (rng.random((100, 6)) < rate for _ in range(2))

    assert multi_label(gold_NS, predicted_NS) == pytest.approx(
        sklearn_averages(gold_NS, predicted_NS)
        | {"subset_accuracy": reference.accuracy_score(gold_NS, predicted_NS)},
        abs=1e-12,
    )


def test_batches_add_up():
    gold_N, predicted_N = draw(5)
    order = np.random.default_rng(1).permutation(200)
    parts = [confusion(gold_N[part], predicted_N[part], 5) for part in np.split(order, [1, 50, 51])]

    np.testing.assert_array_equal(sum(parts), confusion(gold_N, predicted_N, 5))


def test_matthews_does_not_overflow():
    counts_SS = np.array([[4 * 10**8, 10**8], [10**8, 4 * 10**8]])
    assert single_label(counts_SS)["matthews"] == pytest.approx(0.6)


def test_nothing_to_score_scores_nothing():
    found = single_label(np.zeros((3, 3), int))
    assert tuple(found) == SINGLE_LABEL
    assert set(found.values()) == {0}
    assert tuple(multi_label(*np.zeros((2, 3, 2), bool))) == MULTI_LABEL


def nodes(svg, name):
    return list(ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}" + name))


def test_a_picture_holds_every_count_and_label():
    labels = ['<b> & "q"', "体育", "الرياضة", "a\x01b", "naïve 😀"]
    counts_SS = np.arange(25).reshape(5, 5) * 1000
    svg = confusion_svg(counts_SS, labels)

    counts = [node.text for node in nodes(svg, "text") if node.get("font-size") and node.text]
    assert counts[:25] == [str(c) for c in counts_SS.ravel()]
    written = [title.text for title in nodes(svg, "title")]
    assert written[::2] == written[1::2] == [*labels[:3], "a\ufffdb", labels[4]]
    assert [title.tail for title in nodes(svg, "title")] == written


def test_long_labels_keep_both_ends_and_show_whole():
    labels = ["category/" + "x" * 90 + "/one", "字" * 60 + "二"]
    titles = nodes(confusion_svg(np.eye(2, dtype=int), labels), "title")

    assert [title.text for title in titles[::2]] == labels
    assert [title.tail for title in titles[::2]] == ["category/xxx…xx/one", "字字字字字字字…字字二"]


def test_shades_are_shares_of_the_row():
    svg = confusion_svg(np.array([[1, 0], [500, 500]]), ["a", "b"])
    shades = re.findall(r'fill="(#\w{6})" stroke="#ddd"', svg)
    assert shades == ["#08519c", "#ffffff", "#84a8ce", "#84a8ce"]
