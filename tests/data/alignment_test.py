import numpy as np
import pytest

from lm.data.alignment import encode_words, first_pieces
from tests.tiny_tokenizers import KINDS, LOSSLESS, tokenizer_of
from tests.tokenizers.offsets_test import plain

ADD_A_SPACE = ("sentencepiece nfkc", "sentencepiece llama", "roberta", "t5", "xlm-r", "llama")
ADD_A_SPACE += ("unigram bytes",)
T, F = True, False
SENTENCES = [  # Words, and whether a space stands before each.
    (["The", "unbelievable", "thing", "is", "n't", "."], [F, T, T, T, F, F]),
    (["北", "京", "是", "中", "国", "的", "首", "都", "。"], [F] * 9),
    (["東京", "は", "、", "きれい", "な", "ガラス"], [F] * 6),
    (["Die", "schöne", "Straße", "in", "München", "!"], [F, T, T, T, T, F]),
    (["القاهرة", "هي", "عاصمة", "مُحَمَّد", "،"], [F, T, T, T, F]),
    (["👩‍👩‍👧", "👋🏽", "❤\ufe0f", "🏳️‍🌈", "ok"], [F, T, F, F, T]),
    (["e\u0301", "cafe\u0301s", "a\u0308\u0323", "สวัสดี"], [F, T, T, F]),
    (["the", "\ufe0f", "\u0301", "\u200d", "\u2581", "\u00a0", "the"], [F, T, F, T, F, F, T]),
    (["goes", "on"], [T, T]),
]
every_kind = pytest.mark.parametrize("kind", KINDS)


def pieces_of(kind, words, space_before=None):
    """The ids of each word."""
    ids, word_of_L = encode_words(tokenizer_of(kind), words, space_before)
    assert ids.dtype == word_of_L.dtype == np.int32 and ids.shape == word_of_L.shape
    return [ids[word_of_L == i] for i in range(len(words))]


def show(kind, ids):
    return "|".join(tokenizer_of(kind).piece(int(i)) for i in ids)


@every_kind
def test_each_word_has_pieces_of_its_own(kind):
    for words, space_before in SENTENCES:
        _, word_of_L = encode_words(tokenizer_of(kind), words, space_before)
        assert word_of_L[0] == 0 and word_of_L[-1] == len(words) - 1
        assert set(np.diff(word_of_L)) <= {0, 1}


@every_kind
def test_the_pieces_of_a_word_say_it(kind):
    tokenizer = tokenizer_of(kind)
    before = tokenizer.encode_batch(["x"])[0]
    for words, space_before in SENTENCES:
        encoded = pieces_of(kind, words, space_before)
        for i, (word, ids, spaced) in enumerate(zip(words, encoded, space_before, strict=True)):
            said = tokenizer.decode([*before, *ids]).removeprefix(tokenizer.decode(before))
            added = i == 0 and kind in ADD_A_SPACE
            if kind in (*LOSSLESS, "roberta"):
                expected = (" " if spaced or added else "") + word
                if kind in ("llama", "unigram bytes"):
                    expected = expected.replace("\u2581", " ")
                assert said == expected
            elif tokenizer.unk_id not in ids:
                said = said.replace(" ", "")  # BERT's puts spaces around ideographs.
                assert plain(said) == plain(word).replace("\u2581", "")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "bert"])
def test_only_words_behind_a_space_and_the_first_have_one(kind):
    for words, space_before in SENTENCES[:-2]:
        encoded = pieces_of(kind, words, space_before)
        for i, (ids, spaced) in enumerate(zip(encoded, space_before, strict=True)):
            added = i == 0 and kind in ADD_A_SPACE
            assert tokenizer_of(kind).text_of(int(ids[0])).startswith(" ") == (spaced or added)


@every_kind
def test_the_pieces_are_those_of_the_text_where_none_is_of_two_words(kind):
    tokenizer = tokenizer_of(kind)
    num_equal = 0
    for text in [
        "The unbelievable thing , is n't it ?",
        "the thing",
        "She did not believe that the quick brown fox jumps",
        "Die schöne Straße in München",
        "القاهرة هي عاصمة مصر",
        "hello 👋🏽 cafe\u0301 the",
    ]:
        words = text.split(" ")
        ids, starts, ends = tokenizer.encode_with_offsets(text)
        if any(text[s:e].strip().count(" ") for s, e in zip(starts, ends, strict=True)):
            continue
        np.testing.assert_array_equal(encode_words(tokenizer, words)[0], ids, text)
        num_equal += 1
    assert num_equal == 6


TABLE = {  # Words with the spaces before them, and how many pieces each has.
    "English": ("the| thing|s", {
        "bytes": [3, 6, 1], "gpt2": [1, 1, 1], "roberta": [1, 1, 1], "bert": [1, 1, 1],
        "sentencepiece llama": [1, 1, 1], "llama": [1, 1, 1], "unigram bytes": [1, 6, 1],
    }),
    "Chinese": ("北|京|是", {
        "bytes": [3, 3, 3], "gpt2": [3, 3, 3], "roberta": [4, 3, 3], "bert": [1, 1, 1],
        "sentencepiece llama": [2, 1, 3], "llama": [2, 1, 3], "unigram bytes": [2, 1, 3],
    }),
    "Japanese": ("京|は|ガ", {
        "bytes": [3, 3, 3], "gpt2": [3, 3, 3], "roberta": [4, 3, 3], "bert": [1, 1, 1],
        "sentencepiece llama": [2, 1, 3], "llama": [2, 1, 3], "unigram bytes": [2, 1, 3],
    }),
    "German": ("the| ßs|h", {
        "bytes": [3, 4, 1], "gpt2": [1, 4, 1], "roberta": [1, 4, 1], "bert": [1, 1, 1],
        "sentencepiece llama": [1, 4, 1], "llama": [1, 4, 1], "unigram bytes": [1, 4, 1],
    }),
    "Arabic": ("هي| مُ", {
        "bytes": [4, 5], "gpt2": [4, 5], "roberta": [5, 5], "bert": [1, 1],
        "sentencepiece llama": [5, 5], "llama": [5, 5], "unigram bytes": [5, 5],
    }),
    "emoji": ("👋🏽|❤\ufe0f| the", {
        "bytes": [8, 6, 4], "gpt2": [8, 6, 1], "roberta": [9, 6, 1], "bert": [1, 1, 1],
        "sentencepiece llama": [9, 6, 1], "llama": [9, 6, 1], "unigram bytes": [9, 6, 1],
    }),
    "combining": ("e\u0301| i\u0308|s", {
        "bytes": [3, 4, 1], "gpt2": [3, 4, 1], "roberta": [4, 4, 1], "bert": [1, 1, 1],
        "sentencepiece llama": [4, 4, 1], "llama": [4, 4, 1], "unigram bytes": [4, 4, 1],
    }),
}  # fmt: skip


@pytest.mark.parametrize("language", TABLE)
def test_the_number_of_pieces_as_a_table(language):
    text, counts = TABLE[language]
    spaced = text.split("|")
    words = [word.removeprefix(" ") for word in spaced]
    for kind, expected in counts.items():
        encoded = pieces_of(kind, words, [word[0] == " " for word in spaced])
        assert list(map(len, encoded)) == expected, kind


@pytest.mark.parametrize(
    "kind, pieces",
    [
        ("bytes", [["t", "h", "e"], [" ", "t", "h", "i", "n", "g"], ["s"]]),
        ("gpt2", [["the"], [" thing"], ["s"]]),
        ("roberta", [[" the"], [" thing"], ["s"]]),
        ("bert", [[" the"], [" thing"], [" s"]]),  # It has no tokens for spaces at all.
        ("sentencepiece llama", [[" the"], [" thing"], ["s"]]),
        ("llama", [[" the"], [" thing"], ["s"]]),
        ("unigram bytes", [[" the"], [" ", "t", "h", "i", "n", "g"], ["s"]]),
    ],
)
def test_pieces_as_a_table(kind, pieces):
    encoded = pieces_of(kind, ["the", "thing", "s"], [F, T, F])
    assert [[tokenizer_of(kind).text_of(int(i)) for i in ids] for ids in encoded] == pieces


def test_a_word_in_pieces():
    (ids,) = pieces_of("bert", ["Unbelievable"])
    assert show("bert", ids) == "un|##believ|##able"


def test_a_word_that_is_nothing_keeps_its_place():
    words, space_before = ["the", "\ufe0f", "\u0301", "thing", ""], [F, T, F, T, F]
    shown = [show("bert", ids) for ids in pieces_of("bert", words, space_before)]
    assert shown == ["the", "[UNK]", "[UNK]", "thing", "[UNK]"]
    for kind in ("bytes", "gpt2"):  # These have no unknown token.
        assert show(kind, pieces_of(kind, ["the", ""], [F, F])[1]) == " "
    for kind in ("sentencepiece", "sentencepiece nfkc", "llama", "t5"):
        (ids,) = pieces_of(kind, ["the", ""], [F, F])[1:]
        assert ids.tolist() == [tokenizer_of(kind).unk_id]


def test_no_words_have_no_pieces():
    ids, word_of_L = encode_words(tokenizer_of("bytes"), [])
    assert ids.shape == word_of_L.shape == (0,) and ids.dtype == word_of_L.dtype == np.int32


def test_the_first_piece_of_each_word():
    word_of_L = np.array([0, 0, 1, 2, 2, 2, 3], np.int32)
    np.testing.assert_array_equal(first_pieces(word_of_L), [0, 2, 3, 6])
    np.testing.assert_array_equal(first_pieces(word_of_L[:5]), [0, 2, 3])
    assert first_pieces(word_of_L[:0]).shape == (0,)
