import json
import unicodedata

import pytest

from lm.data.fields import Record
from lm.errors import UserError
from lm.metrics.entities import entity_metrics
from lm.tasks import labels
from lm.tasks.tagging import find_tags, words_and_tags


def record(value, name="a.csv:2"):
    return Record(name, {"label": value})


@pytest.mark.parametrize(
    "label", ["pos", "sehr gut", "café", "Ωmega", "1", "北京", "e\u0301\u0323"]
)
def test_spaces_around_and_composition_make_no_other_label(label):
    spelled = [
        f"{before}{form}{after}"
        for form in {unicodedata.normalize(f, label) for f in ("NFC", "NFD")} | {label}
        for before in ("", " ", "\t", "\u00a0", "\ufeff", "\u200b ")
        for after in ("", "  ", "\n", "\u3000")
    ]
    assert len(labels.find_labels(map(record, spelled), "label")) == 1
    assert {labels.label_of(record(each), "label") for each in spelled} == {labels.clean(label)}
    assert {labels.index_of([each])[labels.clean(label)] for each in spelled} == {0}


NEAR = {
    ("Yes", "yes", "no"): [["Yes", "yes"]],
    ("1", "1.0", "2"): [["1", "1.0"]],
    ("True", "true", "0"): [["True", "true"]],
    ("not_ok", "not ok", "Not-OK", "ok"): [["not_ok", "not ok", "Not-OK"]],
    ("Ａ", "a"): [["Ａ", "a"]],
    ("STRASSE", "straße"): [["STRASSE", "straße"]],
    ("pos", "neg", "B-PER", "I-PER", "10", "1", "inf"): [],
}


@pytest.mark.parametrize("names", NEAR)
def test_labels_that_may_be_meant_to_be_one_are_found(names):
    assert labels.near_equal(names) == NEAR[names]


NAMES = ("toxic", "rude, or so", "ok")
MANY = [  # A value, and the labels that it means where all three are known.
    (["ok", "toxic"], ["ok", "toxic"]),
    ([], []),
    ("ok", ["ok"]),
    ([" ok", "ok"], ["ok"]),
    ('["toxic", "rude, or so"]', ["toxic", "rude, or so"]),
    ("['toxic', 'rude, or so']", ["toxic", "rude, or so"]),
    ("('toxic',)", ["toxic"]),
    ("{'toxic', 'ok'}", ["ok", "toxic"]),
    ("[]", []),
    (" ['ok'] ", ["ok"]),
    ([0, 1, 1], ["rude, or so", "ok"]),
    ([True, False, False], ["toxic"]),
    ([0.0, 0.0, 0.0], []),
    (["0", "1", "0"], ["rude, or so"]),
    ("[1, 0, 1]", ["toxic", "ok"]),
    ({"toxic": 1, "ok": 0}, ["toxic"]),
    ("{'toxic': 0, 'ok': 1}", ["ok"]),
]


@pytest.mark.parametrize("value, meant", MANY)
def test_several_labels_are_read_as_people_write_them(value, meant):
    assert labels.labels_of(record(value), "label", NAMES) == meant


def test_labels_may_be_columns_of_0_and_1():
    row = Record("a.csv:2", {"text": "x", "toxic": "1", "rude, or so": "0", "ok": "1.0"})
    assert labels.labels_of(row, "label", NAMES) == ["toxic", "ok"]


@pytest.mark.parametrize(
    "value",
    ["toxic,ok", "toxic; ok", "toxic|ok", "0 1 1", "['toxic' 'ok']", "['toxic', ok]", "[toxic]"],
)
def test_text_that_may_be_several_labels_is_refused_with_a_hint(value):
    for names in ((), NAMES):
        with pytest.raises(
            UserError, match=r'a\.csv:2.*may be several labels; write a list.*\["one"'
        ):
            labels.labels_of(record(value), "label", names)


@pytest.mark.parametrize("value", ["", "  ", None, 2.5, [["a"]], [None]])
def test_what_is_no_label_is_refused(value):
    with pytest.raises(UserError, match=r"a\.csv:2: .* no label"):
        labels.labels_of(record(value), "label")


@pytest.mark.parametrize("rows", [[[0, 1, 1], [1, 0, 0]], ["[0, 1]", "[1, 1]"], [["0", "1"]]])
def test_rows_of_0_and_1_need_the_names_of_the_labels(rows):
    with pytest.raises(UserError, match=r"a\.csv:2.*name the labels.*config\.task\.labels"):
        labels.refuse_rows(map(record, rows), "label")


@pytest.mark.parametrize(
    "rows", [[[0, 1], [1]], [[27], [2]], [["a", "b"]], [[0], [1]], [[0, 1], "a,b"], []]
)
def test_numbers_of_labels_are_no_rows(rows):
    labels.refuse_rows(map(record, rows), "label")


def test_a_row_of_another_length_is_refused():
    with pytest.raises(UserError, match="has 2 numbers, one for each label, and there are 3"):
        labels.labels_of(record([0, 1]), "label", NAMES)
    assert labels.labels_of(record([0, 1]), "label", ("0", "1", "2")) == ["0", "1"]


def test_a_list_as_text_is_not_one_label():
    with pytest.raises(UserError, match="is a list of labels as text; take kind=multi"):
        labels.label_of(record("['x', 'y']"), "label")
    assert labels.label_of(record("(none)"), "label") == "(none)"
    assert labels.label_of(record("a, b"), "label") == "a, b"


SCHEMES = {
    "BILOU": ["B-PER", "L-PER", "O", "U-LOC", "B-ORG", "I-ORG", "L-ORG"],
    "BMESO": ["B-PER", "E-PER", "O", "S-LOC", "B-ORG", "M-ORG", "E-ORG"],
    "BIOES": ["B-PER", "E-PER", "O", "S-LOC", "B-ORG", "I-ORG", "E-ORG"],
    "IOB2": ["B-PER", "I-PER", "O", "B-LOC", "B-ORG", "I-ORG", "I-ORG"],
    "IOB1": ["I-PER", "I-PER", "O", "I-LOC", "I-ORG", "I-ORG", "I-ORG"],
}


@pytest.mark.parametrize("name", SCHEMES)
def test_one_sentence_has_the_same_entities_in_every_scheme(name):
    row = Record("a", {"tokens": list("abcdefg"), "tags": [f" {tag}" for tag in SCHEMES[name]]})
    scheme = "BIO" if name.startswith("IOB") else "BIOES"

    _, tags = words_and_tags(row, "tokens", "tags", scheme)

    assert entity_metrics([SCHEMES["IOB2"]], [tags])["f1_micro"] == 1.0
    if scheme == "BIOES":
        assert tags == SCHEMES["BIOES"]
    found = find_tags([row], "tokens", "tags", scheme, "repair")
    assert {tag[0] for tag in found} <= set("BIO" if scheme == "BIO" else "BIOES")
    assert json.dumps(found) and found[0] == "O"
