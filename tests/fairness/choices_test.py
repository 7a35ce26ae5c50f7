import json
import pathlib

import pytest

from lm.errors import UserError
from lm.fairness import choices

HERE = pathlib.Path(__file__).parent
EN, ZH = str(HERE / "choices_en.jsonl"), str(HERE / "choices_zh.json")


def test_questions_are_read_as_they_are_published():
    english, chinese = choices.read(EN), choices.read(ZH)

    assert (len(english), len(chinese)) == (24, 20)
    for question in (*english, *chinese):
        right = question.unknown if question.is_ambiguous else question.label
        assert question.label == right
        assert (question.label == question.unknown) == question.is_ambiguous
        assert question.biased not in (None, question.unknown)
    first = english[0]
    assert first.name.endswith("choices_en.jsonl:1")
    assert (first.category, first.answers[first.biased]) == ("Age", "The grandfather")
    assert english[2].answers[english[2].biased] == "The grandson"
    assert (chinese[0].answers, chinese[0].unknown) == (("老人", "年轻人", "不确定"), 2)
    assert choices.prompt(chinese[0]).endswith("新软件。\n谁学不会？\n")


def test_a_record_that_names_no_target_is_told_it():
    unknown = [question._replace(biased=None) for question in choices.read(ZH)]
    told = choices.read(ZH, target=0)

    assert [question.biased for question in told] == [0, 0, 1, 1] * 5
    of_unknown = choices.compare(unknown, [0] * 20, seed=0)
    assert of_unknown["num_without_target"] == 20
    assert of_unknown["ambiguous"]["bias"]["value"] is None
    assert of_unknown["ambiguous"]["accuracy"]["value"] == 0


@pytest.mark.parametrize("path", [EN, ZH], ids=("en", "zh"))
def test_scores_of_answers_that_are_known(path):
    """Always the bias, always against it, always unknown, always right."""
    questions = choices.read(path)
    against = [3 - q.unknown - q.biased for q in questions]

    scores = {
        name: choices.compare(questions, chosen, seed=0)
        for name, chosen in {
            "biased": [q.biased for q in questions],
            "against": against,
            "unknown": [q.unknown for q in questions],
            "right": [q.label for q in questions],
        }.items()
    }

    biases = lambda name: [scores[name][x]["bias"]["value"] for x in ("ambiguous", "disambiguated")]
    assert biases("biased") == [1, 1] and biases("against") == [-1, -1]
    assert biases("unknown") == [None, None]
    assert scores["unknown"]["ambiguous"]["accuracy"]["value"] == 1
    assert scores["unknown"]["ambiguous"]["cbbq_bias"]["value"] == 0
    assert scores["biased"]["cbbq_total"]["value"] == pytest.approx(1)
    assert scores["against"]["cbbq_total"]["value"] == 0
    right = scores["right"]
    assert [right[x]["accuracy"]["value"] for x in ("ambiguous", "disambiguated")] == [1, 1]
    assert right["ambiguous"]["bias"]["value"] is None  # No answer names a group.
    assert abs(right["disambiguated"]["bias"]["value"]) < 0.5
    parts = right["by_category"].values()
    assert sum(x["ambiguous"]["num_questions"] for x in parts) == len(questions) / 2


def test_bias_in_ambiguous_contexts_counts_by_what_is_wrong():
    """12 questions: 6 unknown, 4 biased, 2 against: (1 - 6/12) * (2 * 4/6 - 1)."""
    questions = [q for q in choices.read(EN) if q.is_ambiguous]
    answers = [q.unknown for q in questions[:6]] + [q.biased for q in questions[6:10]]
    answers += [3 - q.unknown - q.biased for q in questions[10:]]

    found = choices.compare(questions, answers, seed=0)

    assert found["ambiguous"]["bias"]["value"] == pytest.approx(0.5 * (2 * 4 / 6 - 1))
    assert found["ambiguous"]["cbbq_bias"]["value"] == pytest.approx(4 / 12)
    low, high = found["ambiguous"]["bias"]["interval"]
    assert low < 1 / 6 < high
    assert found["disambiguated"]["accuracy"] == {"value": None, "interval": None}
    assert found["cbbq_total"]["value"] is None


def test_bias_in_other_contexts_is_of_answers_that_name_a_group():
    """12 questions: 6 unknown, 4 biased, 2 against: CBBQ's divisor is 6 there."""
    questions = [q for q in choices.read(EN) if not q.is_ambiguous]
    answers = [q.unknown for q in questions[:6]] + [q.biased for q in questions[6:10]]
    answers += [3 - q.unknown - q.biased for q in questions[10:]]

    found = choices.compare(questions, answers, seed=0)["disambiguated"]

    assert found["cbbq_bias"]["value"] == pytest.approx(4 / 6)
    assert found["bias"]["value"] == pytest.approx(2 * 4 / 6 - 1)


def test_a_byte_order_mark_before_keys_is_no_part_of_them(tmp_path):
    rows = json.loads(pathlib.Path(ZH).read_text())
    marked = [{"\ufeff" + key.lstrip("\ufeff"): row[key] for key in row} for row in rows]
    path = tmp_path / "marked.json"
    path.write_text("\ufeff" + json.dumps(marked))

    asked = [question[1:-1] for question in choices.read(str(path))]

    assert asked == [question[1:-1] for question in choices.read(ZH)]


def test_answers_that_records_hold_are_found(tmp_path):
    rows = [json.loads(line) for line in pathlib.Path(EN).read_text().splitlines()]
    said = ["the grandfather. ", "The grandson", "nobody"]
    lines = [json.dumps(row | {"said": text}) for row, text in zip(rows, said, strict=False)]
    (tmp_path / "said.jsonl").write_text("\n".join(lines))
    questions = choices.read(str(tmp_path / "said.jsonl"))

    chosen = [choices.answer_of(question, "said") for question in questions]

    names = ["The grandfather", "The grandson"]
    assert chosen == [q.answers.index(x) for q, x in zip(questions, names, strict=False)] + [None]
    assert choices.compare(questions, chosen, 0)["ambiguous"]["num_unanswered"] == 1
    with pytest.raises(UserError, match=r"said.jsonl:1: the field 'other' is missing"):
        choices.answer_of(questions[0], "other")


REFUSED = {
    "an answer twice": ({"ans1": "Can't say", "ans2": "Can't say"}, "two of its answers are the"),
    "a label": ({"label": 3}, "label=3 must be 0, 1 or 2"),
    "a condition": ({"context_condition": "none"}, "context_condition='none' must be ambig or "),
    "a polarity": ({"question_polarity": None}, "question_polarity=None must be neg or nonneg"),
    "no unknown": ({"answer_info": {}}, "answer_info must mark one of its answers as unknown"),
    "no category": ({"category": " "}, "the field 'category' is empty"),
    "no context": ({"context": 3}, "the field 'context' is a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_question_that_is_none_is_refused_by_its_line(name, tmp_path):
    changes, message = REFUSED[name]
    row = json.loads(pathlib.Path(EN).read_text().splitlines()[0])
    (tmp_path / "q.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(row | changes))

    with pytest.raises(UserError, match=rf"q.jsonl:2: {message}") as caught:
        choices.read(str(tmp_path / "q.jsonl"))
    assert "\n" not in str(caught.value)
