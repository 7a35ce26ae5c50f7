"""Rules of English decide as datatrove's do of documents written for this test, rule by rule.

What datatrove drops is recorded in the file, with its version and the bounds, by
`python -m benchmarks.check_curation_agreement --record=tests/curation/datatrove_decisions.json`.
"""

import json
import pathlib

import pytest

from benchmarks import check_curation_agreement as agreement
from lm.curation.quality import measure
from lm.curation.thresholds import THRESHOLDS

HELD = json.loads(pathlib.Path(__file__).with_name("datatrove_decisions.json").read_bytes())
DOCUMENTS = {one["name"]: one for one in HELD["documents"]}
GRAMS = [f"duplicate_{n}_grams" for n in (5, 6, 7, 9)]
# Document -> rules that decide unlike datatrove's, on purpose, and why.
DIFFERENT = {
    "notice": {"top_4_grams": "an n-gram that stands once repeats nothing"},
    "tags": {"alphabetic_units": "marks are no words"},
    "bullets of stars": {"bullet_lines": "stars are bullets, too"},
    "teasers": {"num_sentences": "an ellipsis ends a line"},
    "headlines with quotes": {"end_mark_lines": "quotes close behind an end mark"},
    "a long line twice": dict.fromkeys(GRAMS, "marks are no words"),
    "wrapped": {"num_sentences": "wrapped lines are joined"},
    "contractions": {"num_units": "an apostrophe joins a word"},
    "marks": {
        "alphabetic_units": "marks are no words",
        "end_mark_lines": "a bracket closes behind an end mark",
        "num_sentences": "a bracket closes behind an end mark",
    },
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_each_rule_decides_as_datatroves_or_differs_on_purpose(name):
    ours, theirs = (
        agreement.dropped(measure(DOCUMENTS[name]["text"])),
        set(DOCUMENTS[name]["dropped"]),
    )

    assert ours ^ theirs == set(DIFFERENT.get(name, {}))


def test_every_rule_is_seen_to_drop_and_to_keep_alike():
    assert HELD["version"] == "0.10.1" and len(DOCUMENTS) >= 30
    assert {name: tuple(bound) for name, bound in HELD["bounds"].items()} == THRESHOLDS["en"]
    assert set(agreement.RULES) == set(THRESHOLDS["en"])
    both = [
        set(one["dropped"]) & agreement.dropped(measure(one["text"])) for one in DOCUMENTS.values()
    ]
    assert set.union(*both) == set(agreement.RULES)
    assert not DOCUMENTS["prose"]["dropped"]


def answer(text, *dropped):
    """What datatrove says of a text, whose words are those between spaces."""
    lines = [[[word, word != "-"] for word in line.split()] for line in text.split("\n")]
    return {"dropped": list(dropped), "tokens": lines}


def reasons(text, raw, plain):
    """Rule -> how both decide given the same words and lines, and as they run, where not alike."""
    forms = agreement.plain(text)
    found = agreement.compared(
        text, answer(text, *raw), *(answer(forms[form], *plain) for form in ("one", "two"))
    )
    return {rule: (same, own) for rule, same, own in found if not own.startswith("both")}


def test_differences_are_told_apart():
    words = "word " * 30 + "well-known " * 12  # 42 for the peer, and so too few; 54 for us.
    lines = "\n\n".join(["a bit"] * 10 + ["one two three four five six seven"] * 10)

    few = {"num_units", "mean_unit_length"}
    assert reasons(words, {"num_units"}, {"num_units"})["num_units"][1] == "own words"
    assert reasons(words, few, few - {"num_units"})["num_units"] == ("not explained",) * 2
    found = reasons(lines, {"line_ends_per_unit"}, set())
    assert found["line_ends_per_unit"] == ("both keep", "own lines")
    assert "mean_unit_length" not in found
    assert reasons("one two three", {"top_2_grams"}, {"top_2_grams"})["top_2_grams"][0] == (
        "an n-gram that stands once repeats nothing"
    )


def test_words_are_joined_as_datatrove_joins_them():
    words = ["a", "bc", *"xyz", "ab", "c", *"xyz"]

    assert agreement.repeated_if_joined(words, 5) == len("abcxyz")
    assert agreement.repeated_if_joined([*"abcdefghij"], 5) == 0
