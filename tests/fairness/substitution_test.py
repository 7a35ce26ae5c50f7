import pytest

from lm.errors import UserError
from lm.fairness import substitution

EXCHANGED = [
    ("He lost her keys.", "She lost his keys."),
    ("HE IS A KING, she said.", "SHE IS A QUEEN, he said."),
    ("I saw her, and she saw him too.", "I saw him, and he saw her too."),
    ("I told her that her son is his.", "I told him that his daughter is hers."),
    ("The thermos, history and Kingston stay.", "The thermos, history and Kingston stay."),
    ("He's Mr. James; Women's Day", "She's Mrs. Mary; Men's Day"),
    ("a king size bed for the king", "a king size bed for the queen"),
    ("他的其他朋友会弹吉他。", "她的其他朋友会弹吉他。"),
    ("她们的女儿和他们的儿子", "他们的儿子和她们的女儿"),
    ("男女平等，子女都好，那个女司机", "男女平等，子女都好，那个男司机"),
    ("父亲说：“妈妈来了。”", "母亲说：“爸爸来了。”"),
    ("He said 她是女王。", "She said 他是国王。"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "expected"), EXCHANGED)
def test_terms_are_exchanged_and_back(text, expected):
    words = substitution.read("en,zh", "words")

    found = words.substitute(text)

    assert found.text == expected
    assert words.substitute(expected).text == text
    assert (found.num_first + found.num_second > 0) == (text != expected)


def test_what_was_exchanged_is_counted():
    words = substitution.read("en", "words")

    found = words.substitute("He told her that his mother left.")

    assert found[1:] == (2, 2, 2)
    assert words.substitute("A man and his boy.")[1:] == (3, 0, 1)


@pytest.mark.parametrize("name", substitution.OWN)
def test_own_lists_hold_pairs_that_go_both_ways(name):
    words = substitution.read(name, "words")

    assert len(words.first) >= 40
    for term, others in words.other.items():
        for other in others:
            assert term in words.other[other]
            assert (term in words.first) != (other in words.first)
    assert not words.stops & words.other.keys()


REFUSED = {
    "nothing": ("", "words is not set; name lists of terms: en, zh, or a TOML file"),
    "no file": ("fr", "words=fr: there is no such file"),
    "no TOML": ("pairs = [", "own.toml is no TOML: "),
    "no pairs": ("stops = ['a']", "own.toml has no pairs; needs pairs"),
    "no pair": ("pairs = [['a', 'b', 'c']]", r"has \['a', 'b', 'c'\], and needs pairs"),
    "a capital": ("pairs = [['A', 'b']]", r"has \['A', 'b'\], and needs pairs"),
    "twice": ("pairs = [['a', 'b'], ['c', 'a']]", "own.toml has 'a' twice"),
    "itself": ("pairs = [['a', 'a']]", "own.toml has 'a' twice"),
    "an unknown key": (
        "pairs = [['a', 'b']]\nnames = []",
        "has 'names'; known are pairs, stops, f",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_list_that_says_nothing_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, message = REFUSED[name]
    (tmp_path / "own.toml").write_text(text)

    with pytest.raises(UserError, match=message) as caught:
        substitution.read("own.toml" if name not in ("nothing", "no file") else text, "words")
    assert "\n" not in str(caught.value)
