import io
import random

import pytest
import sentencepiece

from lm.errors import UserError
from lm.tokenizers import training

ENGLISH = [
    "the cat sat on the mat,\tand the dog lay on the rug\n" * 3,
    "def f(x):\n    return x\0 + 1  # naïve, «quoted»; 日本\n" * 3,
    "the quick brown fox jumps over the lazy dog\n" * 3,
]
ALGORITHMS = ("bpe", "unigram")


def han(num, num_words=6000):
    """A text of `num` different characters, in words of two, of which some are common."""
    draw = random.Random(0)
    words = [chr(0x4E00 + i) + chr(0x4E00 + (7 * i + 3) % num) for i in range(num)]
    drawn = [words[int(num * draw.random() ** 3)] for _ in range(num_words)]
    return "".join(word + "，。\n"[: i % 9 - 5] for i, word in enumerate(words + drawn))


def characters_of(tokenizer):
    pieces = [tokenizer.text_of(i) for i in range(260, tokenizer.vocab_size)]
    return {piece for piece in pieces if len(piece) == 1}


def train(texts, algorithm="bpe", vocab_size=300, **settings):
    return training.train_sentencepiece(
        texts, algorithm=algorithm, vocab_size=vocab_size, user_symbols=(), **settings
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("coverage", [{}, {"character_coverage": 0.98}])
def test_an_alphabet_gives_the_very_model_of_sentencepiece(algorithm, coverage, capsys):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(ENGLISH),
        model_writer=model,
        model_type=algorithm,
        vocab_size=305,
        **coverage,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        pad_piece="<pad>",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        allow_whitespace_only_pieces=True,
        max_sentence_length=2**30,
        num_threads=2,
        minloglevel=2,
    )

    tokenizer = train(ENGLISH, algorithm, 305, **coverage)

    assert tokenizer.model == model.getvalue()
    assert not capsys.readouterr().err


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("num, vocab_size", [(1500, 700), (1400, 1800), (300, 360)])
def test_more_characters_than_fit_leave_room_for_longer_pieces(num, vocab_size, algorithm, capsys):
    text = han(num)
    tokenizer = train([text, "ab 12"], algorithm, vocab_size)

    room = vocab_size - 260
    kept = characters_of(tokenizer)
    assert len(kept) == int(0.7 * room)
    # The commonest: none that is left out stands in the text more often than one that is kept.
    assert min(map(text.count, kept)) >= max(map(text.count, set(text) - kept))
    assert tokenizer.vocab_size == vocab_size
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text
    assert train([text, "ab 12"], algorithm, vocab_size).model == tokenizer.model
    (line,) = set(capsys.readouterr().err.splitlines())
    assert f"commonest {len(kept):,}," in line and f"vocab_size={vocab_size}" in line


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("vocab_size", [700, 1661])
def test_where_no_longer_piece_is_found_characters_get_all_of_the_room(vocab_size, algorithm):
    text = "\n".join(chr(0x4E00 + i) for i in range(1400))  # No piece has a line end in it.
    tokenizer = train([text], algorithm, vocab_size, character_coverage=1.0)
    assert len(characters_of(tokenizer)) == vocab_size - 260
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text


def test_characters_that_fit_are_all_pieces(capsys):
    text = han(997)  # With comma, full stop and line end, as many as an alphabet may have.
    tokenizer = train([text], vocab_size=1500, character_coverage=1.0)
    assert characters_of(tokenizer) >= set(text)
    assert not capsys.readouterr().err


def test_a_share_of_the_text_is_covered_by_the_fewest_characters():
    text = "a" * 60 + "b" * 25 + "cdefghijklmno" * 1 + "\n\n"
    tokenizer = train([text * 3], vocab_size=265, character_coverage=0.85)
    assert {"a", "b"} <= characters_of(tokenizer)
    assert not set("cdefghijklmno") & characters_of(tokenizer)


@pytest.mark.parametrize("vocab_size", [100, 261])
def test_a_vocabulary_without_room_names_what_to_raise(vocab_size):
    settings = dict(algorithm="bpe", user_symbols=["<x>"])
    with pytest.raises(UserError, match=rf"tokenizer\.vocab_size={vocab_size} .*261; raise it"):
        training.train_sentencepiece(ENGLISH, vocab_size=vocab_size, **settings)
