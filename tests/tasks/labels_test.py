import json
import types
import unicodedata

import pytest

from experiments.wiring import tasks
from lm.data.tags import as_bioes
from lm.errors import UserError
from lm.formats.fields import Record
from lm.metrics.span_f1 import entity_metrics
from lm.tasks import classification, labels
from lm.tasks.tagging import Tagging, find_tags, words_and_tags


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
    assert (
        len(labels.find_labels(map(record, spelled), lambda r: labels.labels_of(r, "label"))) == 1
    )
    assert {labels.label_of(record(each), "label") for each in spelled} == {labels.clean(label)}
    for kind in ("classification", "multi_label"):
        assert {labels.index_of(kind, [each])[labels.clean(label)] for each in spelled} == {0}


NEAR = {
    ("Yes", "yes", "no"): [["Yes", "yes"]],
    ("1", "1.0", "2"): [["1", "1.0"]],
    ("True", "true", "0"): [["True", "true"]],
    ("not_ok", "not ok", "Not-OK", "ok"): [["not_ok", "not ok", "Not-OK"]],
    ("Ａ", "a"): [["Ａ", "a"]],
    ("_pos", "pos", "pos-"): [["_pos", "pos", "pos-"]],
    ("1", "+1", "-1", "1_0", "10"): [["1", "+1"]],
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
    (" rude, or so", ["rude, or so"]),
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


DIGITS = [  # No list of labels has one twice.
    ([0, 1], ["0", "1"]),
    (["1", "2"], ["1", "2"]),
    ([1], ["1"]),
    ([0, 1, 0], ["1"]),
    ("[1, 0, 1]", ["0", "2"]),
    (["0", "0", "0"], []),
]


@pytest.mark.parametrize("value, meant", DIGITS)
def test_rows_of_0_and_1_are_told_from_labels_of_these_names(value, meant):
    assert labels.labels_of(record(value), "label", ("0", "1", "2")) == meant
    with pytest.raises(UserError, match="has 4 numbers, one for each label, and there are 3"):
        labels.labels_of(record([0, 1, 1, 0]), "label", ("0", "1", "2"))


NAMELESS = [  # Of two labels and of three: always a row, never the labels' numbers.
    (2, [0, 1], [1]),
    (2, [1, 0], [0]),
    (2, ["LABEL_1", "LABEL_0"], [1, 0]),
    (3, [1, 0, 1], [0, 2]),
    (3, [0, 2], None),
    (3, 2, None),
]


@pytest.mark.parametrize("num, value, meant", NAMELESS)
def test_several_labels_without_names_are_a_row_and_no_numbers(num, value, meant):
    names = [f"LABEL_{i}" for i in range(num)]
    settings = dict(class_weights=[1.0] * num, label="label")
    many = classification.ManyLabels(labels=names, **settings)
    one = classification.OneLabel(labels=names, **settings)

    if meant is None:
        with pytest.raises(UserError, match=r"label '[02]' is none of training's: LABEL_0, "):
            many.gold(record(value))
    else:
        assert many.gold(record(value)) == {"labels": [names[i] for i in meant]}
    assert one.gold(record(1)) == {"label": "LABEL_1"}


@pytest.mark.parametrize("name", ["food, drink", "a;b", "x|y", "[ok]", "['a']", "0 1", "{}"])
def test_text_that_is_the_name_of_a_label_is_that_label(name):
    assert labels.labels_of(record(f" {name} "), "label", (name, "other")) == [name]


@pytest.mark.parametrize("scheme", ["BILOU", "BMESO", "BIOES"])
def test_a_tagger_has_its_labels_in_any_spelling_of_its_scheme(scheme):
    names = ["O", *(f"{prefix}-X" for prefix in scheme.replace("O", ""))]
    inputs = types.SimpleNamespace(layout=lambda *names: names, notes={})
    settings = dict(crf=False, on_ill_formed="raise", tokens="tokens", tags="tags")

    task = Tagging(inputs, labels=names, scheme="BIOES", **settings)

    words = {"tokens": list("abcde"), "tags": [f"{prefix}-X" for prefix in "BIE"] + ["O", "S-X"]}
    gold = task.gold(Record("a", words))["tags"]
    for i, name in enumerate(names):
        outputs = {"tags_BW": [i], "probabilities_BW": [1.0]}
        (said,) = task.predictions([Record("a", {"tokens": ["a"]})], [[outputs]], None, None)
        assert said["tags"] == [as_bioes(name)] and said["tags"][0] in {"O", *gold}


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


def test_one_label_may_hold_what_separates_several():
    given = ["Science, Tech", "a|b", ",", "Science, Tech", "x;y"]
    block = dict(kind="classification", label="label", labels=(), class_weights="")

    found = tasks.complete(block, [record(each) for each in given], None)

    assert found["labels"] == (",", "Science, Tech", "a|b", "x;y")
