import random
from functools import partial

import pytest

from lm.metrics.squad import (
    cmrc_exact_match,
    cmrc_f1,
    cmrc_metrics,
    exact_match,
    f1,
    squad_metrics,
)

WORDS = "the cat a Dog, AN U.S. 1,000 naïve — “the” the-cat 北京 大学。 der Straße القاهرة 😀 !"
CHARACTERS = "今天天气很好我们去公园散步吧，。《》…‘’·、「」（）().,%$-_ABCabc123かカ３Ａ𠮷"


def draw(seed, *, units, glue, unanswerable=0.0):
    """Sixty questions with up to three answers, and predictions of which some are right."""
    rng = random.Random(seed)
    answer = lambda: glue.join(rng.choices(units, k=rng.randint(0, 4)))
    golds = {str(i): [answer() for _ in range(rng.randint(1, 3))] for i in range(60)}
    guess = lambda answers: rng.choice(answers) if rng.random() < 0.3 else answer()
    predictions = {key: guess(answers) for key, answers in golds.items()}
    unanswerable_keys = [key for key in golds if rng.random() < unanswerable]
    return predictions, golds | {key: [] for key in unanswerable_keys}


draw_words = partial(draw, units=WORDS.split(), glue=" ")
draw_characters = partial(draw, units=CHARACTERS, glue="")

# What the official scripts give for these draws.
SQUAD_1 = (
    (45.0, 31.23412698412699),
    (31.666666666666668, 29.23015873015873),
    (38.333333333333336, 20.761904761904766),
)
SQUAD_2 = (
    (
        31.666666666666668,
        35.00396825396826,
        35.294117647058826,
        41.18347338935575,
        26.923076923076923,
        26.923076923076923,
    ),
    (30.0, 34.87830687830687, 33.333333333333336, 41.46384479717813, 25.0, 25.0),
    (
        30.0,
        37.2063492063492,
        23.529411764705884,
        36.24649859943978,
        38.46153846153846,
        38.46153846153846,
    ),
)
CMRC = (
    (43.333333333333336, 26.222222222222225),
    (36.666666666666664, 24.555555555555554),
    (33.333333333333336, 16.5),
)


@pytest.mark.parametrize("seed", range(3))
def test_scores_are_those_of_the_official_scripts(seed):
    names = ("exact_match", "f1")
    near = lambda numbers: pytest.approx(dict(zip(names, numbers, strict=True)), rel=1e-12)
    assert squad_metrics(*draw_words(seed)) == near(SQUAD_1[seed])
    assert cmrc_metrics(*draw_characters(seed)) == near(CMRC[seed])
    names = [part + name for part in ("", "HasAns_", "NoAns_") for name in names]
    assert squad_metrics(*draw_words(seed, unanswerable=0.4)) == near(SQUAD_2[seed])


@pytest.mark.parametrize(
    "prediction, golds, exact, overlap",
    [
        ("The U.S.!", ["us"], 1, 1),
        ("the black cat", ["a black dog"], 0, 1 / 2),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat", "Dog", "big dog"], 1, 1),
        ("", ["cat"], 0, 0),
        ("", [], 1, 1),
        ("The ...", [], 1, 1),
        ("cat", [], 0, 0),
        ("a", ["the"], 1, 0),
        ("北京大学", ["北京 大学"], 0, 0),
        ("the-cat", ["thecat"], 1, 1),
    ],
)
def test_answers_as_a_table(prediction, golds, exact, overlap):
    assert exact_match(prediction, golds) == exact
    assert f1(prediction, golds) == pytest.approx(overlap)


def test_the_two_versions_differ_in_answers_without_words():
    predictions, golds = {"1": "a", "2": "cat"}, {"1": ["the", "cat"], "2": ["cat"]}
    assert squad_metrics(predictions, golds) == {"exact_match": 100, "f1": 50}

    # The gold answer "the" is ignored, and where nothing else is there, none is right.
    golds |= {"3": [], "4": ["The"]}
    predictions |= {"3": "cat", "4": "an"}
    assert squad_metrics(predictions, golds) == {
        "exact_match": 50,
        "f1": 50,
        "HasAns_exact_match": pytest.approx(200 / 3),
        "HasAns_f1": pytest.approx(200 / 3),
        "NoAns_exact_match": 0,
        "NoAns_f1": 0,
    }


def test_a_missing_prediction_scores_nothing():
    assert squad_metrics({"1": "cat"}, {"1": ["cat"], "2": ["dog"]})["exact_match"] == 50
    assert squad_metrics({}, {"1": []})["NoAns_f1"] == 0


def test_the_order_of_questions_changes_no_bit():
    for metric, (predictions, golds) in (
        (squad_metrics, draw_words(0, unanswerable=0.4)),
        (cmrc_metrics, draw_characters(0)),
    ):
        for seed in range(5):
            turned = random.Random(seed).sample(sorted(golds.items()), len(golds))
            assert metric(predictions, dict(turned)) == metric(predictions, golds)


@pytest.mark.parametrize(
    "prediction, golds, exact, overlap",
    [
        ("《红楼梦》", ["红楼梦"], 1, 1),
        ("在2018年", ["2018年底"], 0, 2 / 3),
        ("北京大学", ["大学在北京", "北京"], 0, 2 / 3),
        ("约3.5%", ["3.5%"], 0, 4 / 5),  # NLTK cuts 3.5% into two.
        ("GPT-2模型", ["gpt2模型"], 1, 1),
        ("ａｂ", ["ab"], 0, 0),
        ("北平大学", ["北京大学"], 0, 1 / 2),
        ("上海", ["北京"], 0, 0),
        ("", ["北京"], 0, 0),
        ("，", ["。"], 1, 0),
        ("…", [""], 0, 0),  # Not in the script's list.
    ],
)
def test_chinese_answers_as_a_table(prediction, golds, exact, overlap):
    assert cmrc_exact_match(prediction, golds) == exact
    assert cmrc_f1(prediction, golds) == pytest.approx(overlap)
