"""What is counted of tokens, words and characters, on texts that can be counted by hand."""

import numpy as np
import pytest

from lm.tokenizers import fertility
from tests.tiny_tokenizers import KINDS, TEXTS, tokenizer_of


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        # the | _ | <E5> <A4> <A9>, of which the first two are "the ".
        ("llama", "the 天", dict(tokens=5, parts=3, words=2, continued=1, word_tokens=4)),
        ("bytes", "a 天b", dict(tokens=6, parts=3, words=3, continued=1, word_tokens=5)),
        # Two characters that are tokens: each is a word.
        ("unigram bytes", "北京", dict(tokens=2, parts=0, words=2, continued=0, word_tokens=2)),
        # " thing" is one token, and "s" goes on with the word.
        ("gpt2", " things", dict(tokens=2, parts=0, words=1, continued=1, word_tokens=2)),
        (
            "bert",
            "thing 天",
            dict(tokens=2, parts=0, words=2, continued=0, word_tokens=2, unknown=1),
        ),
        ("bytes", "", dict(tokens=0)),
    ],
)
def test_counts(kind, text, expected):
    counts = fertility.count(tokenizer_of(kind), [text])

    if kind == "unigram bytes":  # It puts a space first.
        counts = counts._replace(num_tokens=counts.num_tokens - 1)
    assert counts.num_characters == len(text)
    assert counts.num_bytes == len(text.encode())
    wanted = {f"num_{name}": n for name, n in expected.items()}
    rest = counts._asdict().keys() - wanted.keys() - {"num_characters", "num_bytes"}
    assert counts._asdict().items() >= wanted.items()
    assert not any(getattr(counts, name) for name in rest)


@pytest.mark.parametrize("kind", KINDS)
def test_sums_of_texts_are_those_of_each(kind):
    tokenizer = tokenizer_of(kind)

    each = [fertility.count(tokenizer, [text]) for text in TEXTS]
    total = fertility.count(tokenizer, TEXTS)

    np.testing.assert_array_equal(np.sum(each, axis=0), total)
    assert total.num_tokens == sum(map(len, tokenizer.encode_batch(TEXTS)))
    assert 0 <= total.num_continued <= total.num_words
    assert total.num_parts <= total.num_tokens


def test_measures_divide_the_counts():
    counts = fertility.Counts(6, 8, 12, 3, 1, 4, 1, 5)

    assert counts.measures() == {
        "tokens a character": 0.75,
        "bytes a token": 2.0,
        "tokens a word": 1.25,
        "continued words": 0.25,
        "parts of characters": 0.5,
        "unknown tokens": 1 / 6,
    }
    assert not any(fertility.Counts(*[0] * 8).measures().values())
