import unicodedata

import numpy as np
import pytest

from tests.tiny_tokenizers import KINDS, LOSSLESS, TEXTS, tokenizer_of

every_kind = pytest.mark.parametrize("kind", KINDS)


def random_texts(num, seed=0):
    """Any code points but surrogates, among spaces and marks that normalizers drop or compose."""
    rng = np.random.default_rng(seed)
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)])
    common = [ord(c) for c in "  the北京は\u0301\ufe0f\u200d\u00adﬁ㍿¨\u2581"]
    for _ in range(num):
        drawn = points[rng.integers(0, rng.choice([0x80, 0x3000, len(points)]), size=20)]
        yield "".join(map(chr, np.where(rng.random(20) < 0.6, rng.choice(common, 20), drawn)))


def marked_space(kind):
    """What `tokenizers` takes for a space, and must read as one in these tests."""
    return "\u2581" if kind in ("t5", "xlm-r", "llama", "unigram bytes") else " "


def plain(text):
    """Without anything that the normalizers of these tokenizers change."""
    decomposed = unicodedata.normalize("NFKD", text.lower())
    kept = (c for c in decomposed if unicodedata.category(c)[0] not in "MC")
    return "".join(kept).strip()


@every_kind
def test_ids_are_those_of_a_batch(kind):
    tokenizer = tokenizer_of(kind)
    texts = [*TEXTS, *random_texts(100)]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        offsets = tokenizer.encode_with_offsets(text)
        assert [x.dtype for x in offsets] == [np.int32] * 3
        assert len(offsets.ids) == len(offsets.starts) == len(offsets.ends)
        np.testing.assert_array_equal(offsets.ids, ids)


@every_kind
def test_ranges_are_in_order_and_within_the_text(kind):
    for text in [*TEXTS, *random_texts(100)]:
        _, starts, ends = tokenizer_of(kind).encode_with_offsets(text)
        assert (starts <= ends).all(), text
        assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all(), text
        if len(starts):
            assert starts[0] >= 0 and ends[-1] <= len(text)


@every_kind
def test_every_character_but_spaces_has_a_token(kind):
    num_alone = 0
    for text in [*TEXTS, *random_texts(100)]:
        offsets = tokenizer_of(kind).encode_with_offsets(text)
        held = {i for start, end in zip(*offsets[1:], strict=True) for i in range(start, end)}
        solid = {i for i, c in enumerate(text) if not c.isspace()}
        for i in solid - held:  # It was dropped, and touches no token's character.
            assert {i - 1, i + 1}.isdisjoint(solid & held), (text, i)
            num_alone += 1
    assert num_alone == 0 or kind not in LOSSLESS


@every_kind
def test_the_characters_of_a_token_are_its_text(kind):
    tokenizer = tokenizer_of(kind)
    spaces = f" {marked_space(kind)}"
    num_checked = 0
    for text in TEXTS:
        for token_id, start, end in zip(*tokenizer.encode_with_offsets(text), strict=True):
            piece, there = tokenizer.text_of(token_id), text[start:end]
            if "\ufffd" in piece or token_id == tokenizer.unk_id:
                continue  # It is part of a character, or says nothing.
            if kind in LOSSLESS:
                assert piece.strip(" ") == there.strip(spaces), text
            elif plain(there) == there.strip(spaces):
                assert piece.strip() == there.strip(spaces), text
            else:
                assert plain(piece) in plain(there), text
            num_checked += 1
    assert num_checked > 50


@pytest.mark.parametrize("kind", LOSSLESS)
def test_the_tokens_of_a_character_hold_its_bytes(kind):
    tokenizer = tokenizer_of(kind)
    for text in [*TEXTS, *random_texts(100)]:
        ids, starts, ends = tokenizer.encode_with_offsets(text)
        for i, c in enumerate(text):
            if not c.isspace() and c != marked_space(kind):
                of_char = ids[(starts <= i) & (i < ends)]
                assert c in tokenizer.decode([*tokenizer.encode_batch(["x"])[0], *of_char]), text


def test_two_libraries_agree_on_one_model():
    for text in [*TEXTS, *random_texts(100)]:
        text = text.replace("\u2581", "")
        offsets = [
            tokenizer_of(k).encode_with_offsets(text) for k in ("sentencepiece llama", "llama")
        ]
        for ours, theirs in zip(*offsets, strict=True):
            np.testing.assert_array_equal(ours, theirs, text)


# Tables ----------------------------------------------------------------------------------------


def table(kind, text):
    """(piece, characters) of each token."""
    tokenizer = tokenizer_of(kind)
    rows = zip(*tokenizer.encode_with_offsets(text), strict=True)
    return [(tokenizer.piece(int(i)), text[start:end]) for i, start, end in rows]


def test_bytes():
    parts = [(f"\\x{byte:02x}", "京") for byte in "京".encode()]
    assert table("bytes", "a 京!") == [("a", "a"), (" ", " "), *parts, ("!", "!")]


def test_a_space_belongs_to_the_token_that_holds_it():
    assert table("sentencepiece", "he thing") == [("he", "he"), (" thing", " thing")]
    assert table("gpt2", "he thing") == [("he", "he"), (" thing", " thing")]
    assert table("roberta", "the thing") == [(" the", "the"), (" thing", " thing")]


def test_an_added_space_stands_for_nothing():
    assert table("llama", "北") == [(" ", ""), ("北", "北")]
    assert table("sentencepiece llama", "北京")[0] == (" ", "")
    assert table("t5", "首都")[0][1] == ""
    assert table("roberta", "👋")[0] == (" ", "")


def test_a_character_that_is_dropped_belongs_to_its_neighbour():
    assert [text for _, text in table("bert", "cafe\u0301 ❤\ufe0f")][-1] == "❤\ufe0f"
    assert "".join(text for _, text in table("bert", "مُحَمَّد")) == "مُحَمَّد"
    assert table("bert", "\u200dthe") == [("the", "\u200dthe")]
    assert [text for _, text in table("t5", "ｶﾞﾗｽ")] == ["", *["ｶﾞ", "ﾗ", "ｽ"]]


def test_every_part_of_a_character_has_all_of_it():
    for kind in ("sentencepiece", "sentencepiece llama", "llama", "unigram bytes", "gpt2"):
        ids, starts, ends = tokenizer_of(kind).encode_with_offsets("🙂🙃")
        of_text = starts < ends
        assert len(ids[of_text]) > 4, kind
        assert set(zip(starts[of_text], ends[of_text], strict=True)) == {(0, 1), (1, 2)}, kind
    assert [text for _, text in table("sentencepiece nfkc", "ﬁ")] == ["", "ﬁ", "ﬁ"]
