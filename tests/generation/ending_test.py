"""Where a text ends, for tokenizers of every kind."""

import numpy as np
import pytest

from lm.generation import ending
from lm.tokenizers.tokenizers import ByteTokenizer
from tests.tiny_tokenizers import KINDS, LOSSLESS, TEXTS, tokenizer_of

# U+2581 is a space to some of them.
LONG = (
    " ".join(text.replace("\u2581", "") for text in TEXTS).strip() + " the thing 北京是中国的首都"
)


def write(tokenizer, tokens, *strings, before=(), stop_id=None):
    return ending.written(tokenizer, before, tokens, stop_id, strings)


def token_by_token(so_far, strings):
    """What one who looks at the text after each token would keep."""
    for num, text in enumerate(so_far):
        if ends := [text.find(string) for string in strings if string in text]:
            return text[: min(ends)], num
    return text, num


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_ends_before_the_stop_string_that_is_complete_first(kind):
    tokenizer, rng = tokenizer_of(kind), np.random.default_rng(0)
    tokens = tokenizer.encode_batch([LONG])[0].tolist()
    nums = range(len(tokens) + 1)
    so_far = [tokenizer.decode(tokens[:num]).rstrip("\ufffd") for num in nums]
    text = so_far[-1]
    for _ in range(40):
        starts = rng.integers(0, len(text) - 6, 2)
        strings = [text[i : i + rng.integers(1, 6)] for i in starts] + ["never there"]
        strings = [string for string in strings if "\ufffd" not in string]

        found = write(tokenizer, tokens, *strings)

        kept, num = token_by_token(so_far, strings)
        assert (found.text, found.num_tokens) == (kept, num)
        if found.finish_reason == "stop":
            assert found.stop_reason in strings
            assert found.text + found.stop_reason in text


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_text_is_whole_wherever_its_tokens_end(kind):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode_batch([LONG])[0].tolist()
    starts = tokenizer.encode_with_offsets(LONG).starts

    cut = [write(tokenizer, tokens[:num]) for num in range(len(tokens))]

    for num, found in enumerate(cut):  # Up to the character that the next token is of.
        assert found == (LONG[: starts[num]], num, "length", None)


@pytest.mark.parametrize("kind", KINDS)
def test_what_goes_on_from_a_text_keeps_the_space_between_them(kind):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode_batch([LONG])[0].tolist()
    whole = tokenizer.decode(tokens)
    for num in range(1, len(tokens), 5):
        before = tokenizer.decode(tokens[:num])
        if before.endswith("\ufffd"):  # Half a character is no prompt.
            continue

        found = write(tokenizer, tokens[num:], before=tokens[:num])

        assert before + found.text == whole


def test_a_stop_id_is_named_and_no_part_of_the_text():
    tokens = [3 + b for b in "是。".encode()]

    ended = write(ByteTokenizer(), tokens, stop_id=2)
    broken = write(ByteTokenizer(), tokens[:-1], stop_id=2)

    assert ended == ("是。", 6, "stop", "</s>")
    assert broken == ("是", 5, "stop", "</s>")


def test_stop_strings_that_are_special_tokens_become_ids():
    found = ending.stops(ByteTokenizer(), [2], ["\n\n", "</s>", " <s>\n", "", "</s"])

    assert found == ((2, 1), ("\n\n", "</s"))
