import random
import re

import numpy as np
import pytest

from lm.curation import decontamination
from lm.curation.decontamination import Decontamination, Item, Match
from lm.errors import UserError
from tests.curation import planted

SETTINGS = dict(words=5, characters=8, min_units=4, coverage=0.5, max_documents=10, max_share=1e-4)
LOOKED_FOR = Decontamination(**SETTINGS)


def whole(language, text):
    return text


def other_form(language, text):
    """Another case, width and punctuation."""
    if language == "english":
        return ", ".join(text.upper().split()) + "!!"
    wide = str.maketrans({chr(c): chr(c + 0xFEE0) for c in range(0x21, 0x7F)})
    return re.sub("[，。、]", " ", text).translate(wide)


def one_replaced(language, text):
    generator = random.Random(text)
    if language == "english":
        return planted.edited(generator, language, text, 1)
    characters = [i for i, c in enumerate(text) if c >= "\u4e00"]  # A word is two of them.
    place = generator.choice(characters[:-1])
    return f"{text[:place]}蝴蝶{text[place + 2 :]}"


def items_of(language):
    """Sentences, two thirds of which will be planted."""
    if language == "chinese":
        texts = planted.CHINESE.split()
    else:
        generator = random.Random(0)
        texts = [planted.base(generator, language, generator.randrange(11, 30)) for _ in range(60)]
    return [Item(f"{language} {i}", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("language", planted.LANGUAGES)
@pytest.mark.parametrize(
    ("edit", "shares"),
    [
        (whole, {"english": 1, "chinese": 1}),
        (other_form, {"english": 1, "chinese": 1}),
        (one_replaced, {"english": 0.85, "chinese": 0.75}),
    ],
)
def test_planted_items_are_found_and_no_others(language, edit, shares):
    items = items_of(language)
    generator = random.Random(1)
    documents, holds = [], []
    for i in range(300):
        paragraphs = [planted.base(generator, language, 100) for _ in range(3)]
        item = items[i] if i < len(items) and i % 3 else None
        if item:
            paragraphs[1] = edit(language, item.text)
        documents.append("\n\n".join(paragraphs))
        holds.append(item)
    index = decontamination.make_index(items, LOOKED_FOR)
    seen = decontamination.frequencies(index, documents)
    index = decontamination.without_common(index, seen, len(documents), LOOKED_FOR)

    found = [decontamination.matches(index, document, LOOKED_FOR) for document in documents]

    num_found = 0
    others = set()
    for document, item, held in zip(documents, holds, found, strict=True):
        names = {match.item for match in held}
        num_found += item is not None and item.name in names
        others |= names - ({item.name} if item else set())
        for match in held:
            if item and match.item == item.name:
                # Evidence lies in the planted paragraph, and cutting takes that paragraph alone.
                first, planted_text, last = document.split("\n\n")
                for start, end in match.spans:
                    assert len(first) < start < end <= len(first) + 2 + len(planted_text)
                    assert document[start:end] in planted_text
                assert decontamination.cut(document, [match]) == f"{first}\n\n{last}"
    num_planted = sum(item is not None for item in holds)
    assert num_planted >= 10
    assert num_found >= shares[language] * num_planted
    assert len(others) <= 0.01 * len(items)


def test_what_stands_in_many_documents_is_no_evidence():
    template = "Please read the following passage carefully and then answer the question below it"
    question = "How many lighthouses had the old keeper counted before the storm came in"
    items = [Item("template", template), Item("both", f"{template}: {question}")]
    documents = [f"{template}. {n} apples" for n in range(500)] + [f"So: {question}!"]
    index = decontamination.make_index(items, LOOKED_FOR)
    seen = decontamination.frequencies(index, documents)
    halves = [documents[:123], documents[123:]]
    np.testing.assert_array_equal(
        seen, sum(decontamination.frequencies(index, half) for half in halves)
    )
    assert decontamination.matches(index, documents[0], LOOKED_FOR)

    index = decontamination.without_common(index, seen, len(documents), LOOKED_FOR)

    assert index.not_searched["common"] == ["template"]
    found = [decontamination.matches(index, document, LOOKED_FOR) for document in documents]
    assert found == [[]] * 500 + [[Match("both", 9 / 13, [(4, 4 + len(question))])]]
    # In enough documents the share decides, and neither is common.
    index = decontamination.make_index(items, LOOKED_FOR)
    index = decontamination.without_common(index, seen, 10**7, LOOKED_FOR)
    assert not index.not_searched["common"]


@pytest.mark.parametrize(
    ("item", "text", "spans"),
    [
        ("Where is Lake Chad?", "So where is lake chad, he said", ["where is lake chad"]),
        ("Where is it?", "Where is it?", None),  # Three units are not looked for.
        ("他去了哪里", "你说他去了，哪里呢", ["他去了，哪里"]),
        ("不知道", "不知道", None),
        ("a b c d e f", "x a b c d e, y b c d e f z", ["a b c d e", "b c d e f"]),
        ("the ﬁsh is in the net", "See: THE FISH IS IN THE NET.", ["THE FISH IS IN THE NET"]),
        ("the fish is in the net", "See:\nthe ﬁsh is in the net.", ["the ﬁsh is in the net"]),
        ("one two three four", "1\none two th\u200bree four!\n2", ["one two th\u200bree four!\n"]),
        (
            "GPT模型的训练数据很多吗",
            "请问ＧＰＴ模型的训练数据很多吗？",
            ["ＧＰＴ模型的训练数据很多吗"],
        ),
    ],
)
def test_spans_are_those_of_the_text(item, text, spans):
    index = decontamination.make_index([Item("it", item)], LOOKED_FOR)

    found = decontamination.matches(index, text, LOOKED_FOR)

    if spans is None:
        assert not found and index.not_searched["too_short"] == ["it"]
    else:
        assert [text[start:end] for start, end in found[0].spans] == spans


def test_less_than_half_of_an_item_is_not_the_item():
    words = [f"word{i}" for i in range(11)]  # Seven n-grams.
    index = decontamination.make_index([Item("it", " ".join(words))], LOOKED_FOR)

    found = [decontamination.matches(index, " ".join(words[:n]), LOOKED_FOR) for n in range(12)]

    assert [len(one) for one in found] == [0] * 8 + [1] * 4
    assert found[8][0].coverage == 4 / 7


def test_what_little_is_left_of_a_common_item_is_not_looked_for():
    item = "every page of this site ends with these words and then a rare lantern"
    documents = [f"{item[:58]} {n}" for n in range(50)] + ["here stands and then a rare lantern"]
    index = decontamination.make_index([Item("it", item)], LOOKED_FOR)
    seen = decontamination.frequencies(index, documents)
    index = decontamination.without_common(index, seen, len(documents), LOOKED_FOR)

    assert index.not_searched["common"] == ["it"]
    assert not any(decontamination.matches(index, text, LOOKED_FOR) for text in documents)


def test_equal_items_are_one_and_all_that_a_text_holds_are_named():
    texts = ["the quick brown fox jumps", "The quick, brown fox jumps!", "fox jumps over lazy dogs"]
    items = [Item(str(i), text) for i, text in enumerate(texts)]
    index = decontamination.make_index(items, LOOKED_FOR)

    found = decontamination.matches(index, "The quick brown fox jumps over lazy dogs", LOOKED_FOR)

    assert [match.item for match in found] == ["0", "2"]
    assert decontamination.matches(index, "", LOOKED_FOR) == []
    assert (
        decontamination.matches(decontamination.make_index([], LOOKED_FOR), "a", LOOKED_FOR) == []
    )


@pytest.mark.parametrize(
    ("text", "span", "left"),
    [
        ("a\n\nb c\n\nd", (3, 4), "a\n\nd"),
        ("a\nb c\nd", (2, 3), "a\nd"),
        ("a\nb\n \n\nc", (0, 3), "c"),
        ("a b", (0, 1), ""),
        ("a\n\nb", (3, 4), "a\n\n"),
        ("a\n\nb\n\nc", (0, 4), "c"),
    ],
)
def test_paragraphs_are_cut_as_in_this_table(text, span, left):
    assert decontamination.cut(text, [Match("it", 1.0, [span])]) == left
    assert decontamination.cut(text, []) == text


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"words": 0}, "decontaminate.words=0 must be at least 1"),
        ({"coverage": 0.0}, "decontaminate.coverage=0.0 must be above 0, at most 1"),
        ({"max_share": 2.0}, "decontaminate.max_share=2.0"),
    ],
)
def test_settings_out_of_range_are_named(changed, named):
    with pytest.raises(UserError, match=re.escape(named)):
        Decontamination(**SETTINGS | changed)
