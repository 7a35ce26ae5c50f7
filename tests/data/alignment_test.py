import io

import numpy as np
import pytest
import sentencepiece
import tokenizers

from lm.data.alignment import encode_words, first_pieces
from lm.data.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    train_sentencepiece,
)
from lm.data.windows import answer_pieces, answer_text, windows

TEXTS = {
    "English": "The cat isn't here,  is it?",
    "Chinese": "北京是中国的首都。",
    "Japanese": "東京タワーは高いです。",
    "German": "Straßenbahnhaltestelle für Füße",
    "German, decomposed": "Fu\u0308ße u\u0308ber",
    "Arabic": "القِطّة على الطاولة",
    "emoji": "ok 👩‍👩‍👧‍👦 und 👋🏽!",
    "spaces": " a\tb\n c ",
    "space mark": "a ▁ b▁c",
    "nothing": "",
}
CORPUS = [*TEXTS.values()] * 4 + ["the cat is here and there"] * 4


def published():
    """A SentencePiece model as many are: normalised, with a space put before, no bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=120,
        model_type="bpe",
        minloglevel=2,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
    )
    return SentencePieceTokenizer(model.getvalue())


def byte_level():
    library = tokenizers.ByteLevelBPETokenizer()
    library.train_from_iterator(CORPUS, vocab_size=320)
    return HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


def word_pieces():
    library = tokenizers.BertWordPieceTokenizer(lowercase=True)
    library.train_from_iterator(CORPUS, vocab_size=200)
    return HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


MAKERS = {
    "bytes": ByteTokenizer,
    "sentencepiece": lambda: train_sentencepiece(
        CORPUS, algorithm="bpe", vocab_size=330, user_symbols=()
    ),
    "published sentencepiece": published,
    "byte-level BPE": byte_level,
    "WordPiece": word_pieces,
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request):
    return MAKERS[request.param]()


@pytest.mark.parametrize("language", TEXTS)
def test_offsets_cover_the_text_in_order(tokenizer, language):
    text = TEXTS[language]

    ids, starts, ends = tokenizer.encode_with_offsets(text)

    np.testing.assert_array_equal(ids, tokenizer.encode_batch([text])[0])
    assert (
        np.all(starts[1:] >= starts[:-1]) and np.all(ends >= starts) and np.all(ends <= len(text))
    )
    covered = {i for start, end in zip(starts, ends, strict=True) for i in range(start, end)}
    dropped = {c for i, c in enumerate(text) if i not in covered and not c.isspace()}
    assert dropped <= {"\u0308", "\u200d", "\u0650", "\u0651"}  # Marks, which some leave out.


@pytest.mark.parametrize("kind", ["bytes", "sentencepiece", "byte-level BPE"])
@pytest.mark.parametrize("language", TEXTS)
def test_pieces_are_what_stands_at_their_offsets(kind, language):
    tokenizer, text = MAKERS[kind](), TEXTS[language]

    ids, starts, ends = tokenizer.encode_with_offsets(text)

    for token_id, start, end in zip(ids, starts, ends, strict=True):
        said = tokenizer.text_of(int(token_id))
        if "\ufffd" not in said and tokenizer.num_bytes(token_id) == len(said.encode()):
            assert text[start:end] == said or said == " " == text[start:end][:1]


@pytest.mark.parametrize("language", TEXTS)
def test_answers_come_back_from_their_pieces(tokenizer, language):
    text = TEXTS[language]
    offsets = tokenizer.encode_with_offsets(text)

    for start in range(len(text)):
        for end in range(start + 1, len(text) + 1):
            pieces = answer_pieces(offsets, start, end)
            if pieces is not None and not text[start:end].isspace():
                found = answer_text(text, offsets, *pieces)
                kept = "".join(c for c in text[start:end] if c not in "\u0308\u200d\u0650\u0651")
                assert kept.strip()[:1] in found
                if isinstance(tokenizer, ByteTokenizer):
                    assert found == text[start:end].strip()


WORDS = {
    "English": (["Cats", "do", "n't", "."], [False, True, False, False]),
    "Chinese": (["北京", "是", "首都"], [False, False, False]),
    "emoji": (["ok", "👩‍👩‍👧‍👦", "\ufe0f", "!"], None),
    "Arabic": (["القِطّة", "على"], None),
    "German": (["Fu\u0308ße", "über"], None),
}


@pytest.mark.parametrize("language", WORDS)
def test_every_word_has_pieces_of_its_own(tokenizer, language):
    words, space_before = WORDS[language]

    ids, word_of = encode_words(tokenizer, words, space_before)

    assert ids.dtype == word_of.dtype == np.int32 and len(ids) == len(word_of)
    assert word_of.tolist() == sorted(word_of) and set(word_of) == set(range(len(words)))
    first = first_pieces(word_of)
    assert word_of[first].tolist() == list(range(len(words)))
    assert all(word_of[i - 1] < word_of[i] for i in first[1:])


@pytest.mark.parametrize("kind", ["sentencepiece", "published sentencepiece", "WordPiece"])
def test_words_of_a_spaced_text_are_encoded_as_the_text_is(kind):
    tokenizer, words = MAKERS[kind](), ["the", "cat", "is", "here"]

    ids, _ = encode_words(tokenizer, words)

    np.testing.assert_array_equal(ids, tokenizer.encode_batch([" ".join(words)])[0])


def test_a_table_of_words_and_pieces():
    ids, word_of = encode_words(ByteTokenizer(), ["ä", "b"], [False, True])

    assert [ByteTokenizer().piece(i) for i in ids] == ["\\xc3", "\\xa4", " ", "b"]
    assert word_of.tolist() == [0, 0, 1, 1]
    assert first_pieces(word_of).tolist() == [0, 2]


@pytest.mark.parametrize(
    ("num_pieces", "expected"),
    [
        (10, [(0, 6), (3, 9), (6, 10)]),
        (6, [(0, 6)]),
        (7, [(0, 6), (3, 7)]),
        (1, [(0, 1)]),
        (0, [(0, 0)]),
    ],
)
def test_windows_overlap_and_cover_all(num_pieces, expected):
    assert windows(num_pieces, size=6, stride=3) == expected
