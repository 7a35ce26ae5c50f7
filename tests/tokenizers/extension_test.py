"""Longer tokenizers: old tokens keep their ids, and old text is cut where it was, or less often."""

import functools
import json
import random

import numpy as np
import pytest
import tokenizers as hf

from lm.errors import UserError
from lm.tokenizers import extension, piece_choice, sentencepiece_proto, training
from lm.tokenizers.pieces import SPACE_MARK
from lm.tokenizers.tokenizers import HuggingFaceTokenizer, SentencePieceTokenizer
from tests.tiny_tokenizers import CORPUS, KINDS, LOSSLESS, TEXTS, tokenizer_of

TEXT = [
    "春天来了，山上的花开了，山下的河水也绿了。孩子们在河边玩，老人们在山上看花。",
    "春天的山上有很多花，河边的树也绿了。山上的花开了，孩子们看花。",
    "Весна пришла, и в горах расцвели цветы; дети играют в горах.",
    "Der Reiher reist weiter hinter dem Thing, then hither; die Reise der Reiher, the ether.",
] * 2
NUM = 40
BPES = ("sentencepiece", "sentencepiece llama", "gpt2", "roberta", "llama")
EXTENDED = tuple(kind for kind in KINDS if kind != "bytes")


@functools.cache
def extended(kind):
    return extension.extend(tokenizer_of(kind), TEXT, NUM)


def mixtures(num=150):
    """Old and new text side by side, cut anywhere."""
    rng = random.Random(0)
    whole = [*TEXTS, *TEXT, *CORPUS]
    cut = lambda text: text[rng.randint(0, len(text)) :][: rng.randint(1, 30)]
    return ["".join(cut(t) for t in rng.choices(whole, k=rng.randint(1, 4))) for _ in range(num)]


def boundaries(tokenizer, text):
    found = tokenizer.encode_with_offsets(text)
    return {*found.starts.tolist(), *found.ends.tolist()}


def num_tokens(tokenizer, texts):
    return sum(map(len, tokenizer.encode_batch(texts)))


@pytest.mark.parametrize("kind", EXTENDED)
def test_old_tokens_keep_their_ids_and_new_ones_follow(kind):
    old, (new, old_ids) = tokenizer_of(kind), extended(kind)

    assert new.vocab_size == old.vocab_size + NUM == old.vocab_size + len(old_ids)
    assert [new.piece(i) for i in range(old.vocab_size)] == [*map(old.piece, range(old.vocab_size))]
    assert new.special_ids == old.special_ids
    assert new.named_tokens == old.named_tokens
    for num_texts in (1, 2):
        assert new.frame(num_texts) == old.frame(num_texts)
    used = set(np.concatenate(new.encode_batch(TEXT)).tolist())
    assert len(used - {*range(old.vocab_size)}) > NUM / 2


@pytest.mark.parametrize("kind", BPES)
def test_a_bpe_merges_old_tokens_and_cuts_none(kind):
    old, new = tokenizer_of(kind), extended(kind).tokenizer
    texts = mixtures()

    longer = [text for text in texts if not boundaries(new, text) <= boundaries(old, text)]

    assert longer == []
    assert num_tokens(new, TEXT) < 0.6 * num_tokens(old, TEXT)


@pytest.mark.parametrize("kind", [kind for kind in LOSSLESS if kind != "bytes"])
def test_text_comes_back(kind):
    old, new = tokenizer_of(kind), extended(kind).tokenizer
    texts = mixtures()

    back, expected = ([t.decode(ids) for ids in t.encode_batch(texts)] for t in (new, old))

    assert back == expected
    assert back == texts or kind not in ("sentencepiece", "gpt2")


@pytest.mark.parametrize("kind", EXTENDED)
def test_old_ids_spell_what_a_new_token_spells(kind):
    old, (new, old_ids) = tokenizer_of(kind), extended(kind)

    for i, ids in enumerate(old_ids):
        if old.unk_id not in ids:  # In whose place there was nothing.
            token_id = old.vocab_size + i
            assert (
                new.raw(token_id).strip()
                == b"".join(map(old.raw, ids)).replace(b" ##", b"").strip()
            )
    if kind in LOSSLESS:
        assert all(old.unk_id not in ids for ids in old_ids)


@pytest.mark.parametrize("kind", ["sentencepiece nfkc", "t5", "xlm-r", "bert"])
def test_characters_that_were_unknown_get_tokens(kind):
    old, new = tokenizer_of(kind), extended(kind).tokenizer

    lost = [np.count_nonzero(np.concatenate(t.encode_batch(TEXT)) == t.unk_id) for t in (old, new)]

    assert lost[1] < lost[0] or kind == "t5"
    assert "花" in new.decode(new.encode_batch(["山上的花"])[0])


def test_a_unigram_takes_as_few_tokens_as_one_of_the_new_text_alone():
    train = lambda texts, size: training.train_sentencepiece(
        texts, algorithm="unigram", vocab_size=size, user_symbols=()
    )
    texts = [text for text in TEXT if not text.isascii()]
    old, alone = train(CORPUS, 350), train(texts, 315)
    num_new = alone.vocab_size - 260

    new = extension.extend(old, texts, num_new).tokenizer

    assert num_tokens(new, texts) <= 1.02 * num_tokens(alone, texts)
    assert num_tokens(new, CORPUS) == num_tokens(old, CORPUS)


@pytest.mark.parametrize("kind", ["sentencepiece", "gpt2", "unigram bytes"])
def test_no_more_pieces_are_added_than_are_enough(kind):
    old, longest = tokenizer_of(kind), extended(kind).tokenizer
    fewer = num_tokens(extension.extend(old, TEXT, 9).tokenizer, TEXT)
    find = lambda most: extension.extend(old, TEXT, NUM, lambda new: num_tokens(new, TEXT) <= most)

    found = find(fewer)

    num = len(found.old_ids)
    assert 1 < num <= 9 and num_tokens(found.tokenizer, TEXT) <= fewer
    assert num_tokens(extension.extend(old, TEXT, num - 1).tokenizer, TEXT) > fewer
    again = extension.extend(old, TEXT, num).tokenizer
    assert found.tokenizer.fingerprint == again.fingerprint
    assert find(0).tokenizer.fingerprint == longest.fingerprint
    assert len(find(num_tokens(old, TEXT)).old_ids) == 1


def test_more_merges_are_no_added_tokens():
    old, new = (json.loads(t.tokenizer_json) for t in (tokenizer_of("gpt2"), extended("gpt2")[0]))

    assert new["added_tokens"] == old["added_tokens"]
    num_old = len(old["model"]["merges"])
    assert new["model"]["merges"][:num_old] == old["model"]["merges"]
    assert len(new["model"]["merges"]) >= num_old + NUM


def test_scores_of_a_bpe_count_down_below_all_others():
    old, new = (
        sentencepiece_proto.ModelProto.FromString(t.model).pieces
        for t in (tokenizer_of("sentencepiece"), extended("sentencepiece").tokenizer)
    )
    scores = [piece.score for piece in new[len(old) :]]

    assert max(scores) < min(piece.score for piece in old)
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) == NUM


def test_added_tokens_beside_a_vocabulary_keep_their_ids():
    parts = json.loads(tokenizer_of("gpt2").tokenizer_json)
    library = hf.Tokenizer.from_str(json.dumps(parts))
    library.add_special_tokens(["<|end|>"])
    library.add_tokens(["<tool>"])
    old = HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})

    new = extension.extend(old, TEXT, NUM).tokenizer

    for name in ("<|end|>", "<tool>"):
        assert new.id_of(name) == old.id_of(name) >= len(parts["model"]["vocab"])
    assert new.special_ids == {"<|end|>": old.id_of("<|end|>"), **old.special_ids}
    for text in ("a<|end|>b", "花<tool>花"):
        assert new.decode(new.encode_batch([text])[0]) == text
    assert old.id_of("<|end|>") not in new.encode_batch(["a<|end|>b"])[0]


@pytest.mark.parametrize("kind", ["gpt2", "sentencepiece", "llama"])
def test_text_that_spells_what_is_no_text_becomes_none(kind):
    old = tokenizer_of(kind)
    if kind == "gpt2":
        library = hf.Tokenizer.from_str(old.tokenizer_json)
        library.add_special_tokens(["eos"])
        old = HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})
    name = {"gpt2": "eos", "sentencepiece": "<0x41>", "llama": "<unk>"}[kind]
    texts = [f"{name} {name}花{name} {SPACE_MARK}花{SPACE_MARK}花 x"] * 9

    new = extension.extend(old, texts, 99).tokenizer

    (ids,) = new.encode_batch(texts[:1])
    assert new.id_of(name) == old.id_of(name)
    assert old.id_of(name) not in ids
    assert new.decode(ids) == old.decode(old.encode_batch(texts[:1])[0])
    if kind == "sentencepiece":  # A mark in a text is no space.
        added = [new.raw(i).decode() for i in range(old.vocab_size, new.vocab_size)]
        assert not [piece for piece in added if " 花" in piece]


def test_a_tokenizer_that_would_find_other_special_tokens_is_refused():
    files = {"tokenizer.json": tokenizer_of("gpt2").tokenizer_json.encode()}
    old = HuggingFaceTokenizer(files, older_names={"eos_token": "Ġthe"})

    with pytest.raises(UserError, match="the tokenizer's eos_id would change"):
        extension.extend(old, TEXT, NUM)


def test_more_tokens_can_be_added_again():
    once = extended("sentencepiece").tokenizer

    twice = extension.extend(once, ["Ψυχή μου, ψυχή μου, ψυχή"] * 3, 5).tokenizer

    assert twice.vocab_size == once.vocab_size + 5
    for text in TEXT:
        np.testing.assert_array_equal(twice.encode_batch([text])[0], once.encode_batch([text])[0])


def test_what_saves_most_is_chosen_and_parts_come_with_it():
    words = {("好", "天", 7): 5, ("天", 7): 2, ("好",): 1, (7, 7): 1}

    choose = lambda num: piece_choice.choose(
        words, {"好": 3, "天": 3}, num, spell=lambda run: "".join(map(str, run))
    )

    assert choose(1).characters == ["天"]  # 2 x 7 tokens, where the other saves 2 x 6.
    assert choose(1).merges == []
    assert choose(3).characters == ["天", "好"]
    assert choose(3).merges == [piece_choice.Merge(("天",), (7,), 7)]
    both = choose(9)
    assert [merge.run for merge in both.merges] == [("天", 7), ("好", "天", 7)]
    assert both.counts == {("天",): 0, ("好",): 1, ("天", 7): 2, ("好", "天", 7): 5}


def _of_words():
    model = sentencepiece_proto.ModelProto.FromString(tokenizer_of("sentencepiece").model)
    model.trainer_spec.model_type = 4
    return SentencePieceTokenizer(model.SerializeToString())


def _outside_of_a_unigram():
    library = hf.Tokenizer.from_str(tokenizer_of("t5").tokenizer_json)
    library.add_tokens(["<tool>"])
    return HuggingFaceTokenizer({"tokenizer.json": library.to_str().encode()})


def _word_level():
    model = hf.models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]")
    return HuggingFaceTokenizer({"tokenizer.json": hf.Tokenizer(model).to_str().encode()})


def _with_ends_of_words():
    model = hf.models.BPE({"a": 0, "a</w>": 1}, [], end_of_word_suffix="</w>")
    return HuggingFaceTokenizer({"tokenizer.json": hf.Tokenizer(model).to_str().encode()})


@pytest.mark.parametrize(
    ("make", "texts", "num", "message"),
    [
        (lambda: tokenizer_of("bytes"), TEXT, 9, "a tokenizer of bytes has no pieces"),
        (lambda: tokenizer_of("gpt2"), TEXT, 0, "num_pieces=0 appends nothing"),
        (lambda: tokenizer_of("gpt2"), [], 9, "gives no new piece"),
        (lambda: tokenizer_of("gpt2"), ["", " "], 9, "gives no new piece"),
        (lambda: tokenizer_of("sentencepiece"), ["山"], 9, "gives no new piece"),
        (_of_words, TEXT, 9, "only bpe and unigram"),
        (_word_level, TEXT, 9, "a WordLevel cannot be extended"),
        (_with_ends_of_words, TEXT, 9, "end_of_word_suffix"),
        (_outside_of_a_unigram, TEXT, 9, "tokens outside of its Unigram"),
    ],
)
def test_what_cannot_be_extended_is_refused(make, texts, num, message):
    with pytest.raises(UserError, match=message):
        extension.extend(make(), texts, num)
