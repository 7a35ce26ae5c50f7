"""Text that is shown while it is written, for tokenizers of every kind."""

import itertools

import numpy as np
import pytest

from lm.generation.text_stream import Stops, TextStream
from lm.tokenizers.tokenizers import ByteTokenizer
from tests.tiny_tokenizers import KINDS, LOSSLESS, TEXTS, tokenizer_of

# U+2581 is a space to some of them.
LONG = (
    " ".join(text.replace("\u2581", "") for text in TEXTS).strip() + " the thing 北京是中国的首都"
)
MIXED = "the thing 北京, 👋🏽 a ❤\ufe0f  the 京 ß"


def stream(tokenizer, tokens, strings=(), *, before=(), ids=()):
    """What is given of each token and at the end, and the stream."""
    made = TextStream(tokenizer, before, Stops(tuple(ids), tuple(strings)))
    return [*map(made.push, tokens), made.finish()], made


def without_start(text, strings):
    """A text without what may be the start of a stop string, by trying all."""
    cuts = (n for n in range(len(text)) if any(s.startswith(text[n:]) for s in strings))
    return text[: next(cuts, len(text))]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_adds_up_to_the_text_of_all_tokens(kind):
    tokenizer, rng = tokenizer_of(kind), np.random.default_rng(0)
    encoded = tokenizer.encode_batch([LONG])[0].tolist()
    # Of any tokens, most bytes are no UTF-8; special tokens are among them.
    drawn = [rng.integers(0, tokenizer.vocab_size, 40).tolist() for _ in range(50)]
    for ids, num_before in itertools.product([encoded, *drawn], [0, 7, 20]):
        before = tokenizer.decode(ids[:num_before]) if num_before else ""
        if before.endswith("\ufffd"):
            continue

        given, made = stream(tokenizer, ids[num_before:], before=ids[:num_before])

        text = tokenizer.decode(ids).removeprefix(before).rstrip("\ufffd")
        assert "".join(given) == made.written.text == text
        assert made.written[1:] == (len(ids) - num_before, "length", None)


@pytest.mark.parametrize("kind", LOSSLESS)
def test_a_character_is_given_by_the_token_that_makes_it_whole(kind):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode_batch([LONG])[0].tolist()
    starts = tokenizer.encode_with_offsets(LONG).starts

    given, _ = stream(tokenizer, tokens)

    so_far = list(itertools.accumulate(given))
    # Up to the character that the next token is of.
    assert so_far == [*(LONG[:start] for start in starts[1:]), LONG, LONG]


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_that_the_prompt_ends_with_or_begins_ends_nothing(kind):
    tokenizer = tokenizer_of(kind)
    before, tokens = (
        tokenizer.encode_batch([text])[0].tolist() for text in ("a thing", " the other")
    )

    plain, _ = stream(tokenizer, tokens, before=before)
    given, made = stream(tokenizer, tokens, ["thing", "a thing", "g the"], before=before)

    assert not made.stopped
    assert "".join(given) == "".join(plain)


@pytest.mark.parametrize("kind", KINDS)
def test_no_part_of_any_stop_string_is_given(kind):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode_batch([MIXED])[0].tolist()
    text = tokenizer.decode(tokens)
    so_far = [*itertools.accumulate(stream(tokenizer, tokens)[0])]
    for first, end in itertools.combinations(range(len(text) + 1), 2):
        string = text[first:end]

        given, made = stream(tokenizer, tokens, [string])

        kept = text[: text.find(string)]
        assert made.stopped and made.written[::2] == (kept, "stop")
        assert made.written.stop_reason == string
        # Nothing else is held back, and nothing is given behind the end.
        assert [*itertools.accumulate(given)] == [
            kept if string in each else without_start(each, [string]) for each in so_far
        ]


def test_of_several_stop_strings_the_one_that_a_token_completes_first_ends_the_text():
    tokenizer = tokenizer_of("sentencepiece")
    cases = {
        ("thing", "the th"): ("", "the th"),
        ("in", "thing"): ("the th", "in"),  # Whole one token before the other.
        ("ing", "thing", "hing"): ("the ", "thing"),  # By the same token.
        ("the thing 京", "g 北", "never"): ("the thin", "g 北"),
        ("the thing is",): (MIXED, None),
        ("ß!", "京 ß!"): (MIXED, None),
    }
    tokens = [i for c in MIXED for i in tokenizer.encode_batch([c])[0].tolist()]
    for strings, (text, reason) in cases.items():
        written = stream(tokenizer, tokens, strings)[1].written

        assert (written.text, written.stop_reason) == (text, reason)
        assert written.finish_reason == ("length" if reason is None else "stop")


def test_a_stop_id_ends_the_text_and_gives_what_could_have_begun_a_string():
    tokens = [3 + byte for byte in "是。ab".encode()]

    given, made = stream(ByteTokenizer(), [*tokens, 2, *tokens], ["ab!"], ids=[2])

    assert given[3:9] == ["", "", "。", "", "", "ab"]
    assert not any(given[9:])
    assert made.written == ("是。ab", 8, "stop", "</s>")


@pytest.mark.parametrize("kind", LOSSLESS)
def test_what_goes_on_from_half_a_character_gives_it_whole(kind):
    tokenizer = tokenizer_of(kind)
    tokens = tokenizer.encode_batch(["the 中☃是"])[0].tolist()
    for num in range(1, len(tokens)):
        before = tokenizer.decode(tokens[:num]).rstrip("\ufffd")

        given, _ = stream(tokenizer, tokens[num:], before=tokens[:num])

        assert before + "".join(given) == "the 中☃是"
