import sys

import numpy as np
import pytest
import sentencepiece

from lm.tokenizers import sentencepiece_proto, tokenizers, training, word_cache

TEXTS = [
    "def f(x):\n    return x + 1\n\n\ndef g(y):\n\treturn f(y) * 2\n" * 8,
    "class Thing:\n        pass\n  # The end, the very end.   \n \n" * 8,
    "",
    " ",
    " \n ",
    "\n\n\n",
    "the very  end \n\n   of \t\r\n\0 北京は é 👩‍👩‍👧",
    "a<sep>the   <sep> end<sep>\n<sep>",
]


def trained(**options):
    options = dict(algorithm="bpe", vocab_size=330, user_symbols=["<sep>", "   "]) | options
    return training.train_sentencepiece(TEXTS, **options)


@pytest.fixture(scope="module")
def model():
    model = trained().model
    assert word_cache.is_exact(model)
    return model


def random_texts():
    """Words and what lies between them in any order, so that each meets each."""
    parts = [*("the", "ret", "urn", "x", "é", "北", "👩", "<sep>"), *(" ", "  ", "    ", *"\n\t\r")]
    rng = np.random.default_rng(0)
    return ["".join(rng.choice(parts, size=size)) for size in rng.integers(1, 200, size=300)]


@pytest.mark.parametrize("max_chars", [0, 10, sys.maxsize])
def test_words_have_the_tokens_that_their_text_has(model, monkeypatch, max_chars):
    monkeypatch.setattr(word_cache, "_MAX_CHARS", max_chars)
    whole = sentencepiece.SentencePieceProcessor(model_proto=model)
    tokenizer = tokenizers.SentencePieceTokenizer(model)

    texts = [*TEXTS, *random_texts()]
    for batch in (texts[:5], texts, texts[::-1]):  # Words that are new, known, and both.
        encoded = tokenizer.encode_batch(batch)
        assert [ids.tolist() for ids in encoded] == [whole.encode(text) for text in batch]
        assert all(ids.dtype == np.int32 and ids.flags.writeable for ids in encoded)


def test_no_more_is_kept_than_the_limit(model, monkeypatch):
    monkeypatch.setattr(word_cache, "_MAX_CHARS", 100)
    encode = sentencepiece.SentencePieceProcessor(model_proto=model).encode
    words = word_cache.WordCache(encode)

    for number in range(1000):
        words.encode_batch([f"number {number}"])
        assert sum(map(len, words._known)) <= 100


def test_a_model_whose_pieces_join_words_is_taken_by_texts():
    assert not word_cache.is_exact(trained(user_symbols=["the end"]).model)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: setattr(p.trainer_spec, "model_type", sentencepiece_proto.UNIGRAM),
        lambda p: setattr(p.trainer_spec, "byte_fallback", False),
        lambda p: setattr(p.normalizer_spec, "add_dummy_prefix", True),
        lambda p: setattr(p.normalizer_spec, "remove_extra_whitespaces", True),
        lambda p: setattr(p.normalizer_spec, "escape_whitespaces", False),
        lambda p: setattr(p.normalizer_spec, "precompiled_charsmap", b"x"),
        lambda p: setattr(p.pieces[-1], "piece", "the\u2581end"),
    ],
)
def test_a_model_that_sees_more_than_words_is_taken_by_texts(model, change):
    proto = sentencepiece_proto.ModelProto.FromString(model)
    change(proto)
    assert not word_cache.is_exact(proto.SerializeToString())
