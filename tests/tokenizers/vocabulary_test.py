import json

import numpy as np
import pytest
import tokenizers as library

from lm.tokenizers import tokenizers, training
from lm.tokenizers.vocabulary import vocabulary_of

TEXTS = [f"the tokens of a sentence {i}, 中{i}文 and under_scores 日本{i * 7}" for i in range(99)]


@pytest.fixture(scope="module", params=["bpe", "unigram"])
def trained(request):
    return training.train_sentencepiece(
        TEXTS,
        algorithm=request.param,
        vocab_size=310,
        user_symbols=["<sep>"],
        mask=True,
        num_sentinels=5,
    )


def test_masks_and_sentinels_have_ids_that_no_text_can_spell(trained):
    vocabulary = vocabulary_of(trained)

    assert vocabulary.mask_id == 4
    assert vocabulary.sentinel_ids.tolist() == [9, 8, 7, 6, 5]  # They count down.
    assert trained.piece(9) == "<extra_id_0>"
    spelled = trained.encode_batch(["<mask> <extra_id_0> <pad>"])[0]
    assert not vocabulary.special_V[spelled].any()
    assert vocabulary.special_V[:10].all()
    assert trained.id_of("<sep>") in vocabulary.ordinary
    assert set(trained.encode_batch(TEXTS[:1])[0]) <= set(vocabulary.ordinary)


def words(tokenizer, text):
    """What whole-word masking takes for a word."""
    vocabulary = vocabulary_of(tokenizer)
    groups = []
    for token in tokenizer.encode_batch([text])[0].tolist():
        if groups and (vocabulary.joins_left_V[token] and vocabulary.joins_right_V[groups[-1][-1]]):
            groups[-1].append(token)
        else:
            groups.append([token])
    return [tokenizer.decode(group).strip() for group in groups]


def test_words_are_letters_and_digits_together_and_chinese_characters_alone(trained):
    found = words(trained, "tokenses of under_scores, 中文 42")

    assert [w for w in found if w] == ["tokenses", "of", "under_scores", ",", "中", "文", "42"]


def test_word_pieces_that_continue_a_word_belong_to_it(tmp_path):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "play", "##ing", "##s", "a", "."]
    model = library.models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]")
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece()
    tokenizer.add_special_tokens(vocabulary[:5])
    tokenizer.save(str(tmp_path / "tokenizer.json"))

    loaded = tokenizers.load_file(tmp_path / "tokenizer.json")

    assert words(loaded, "playing a plays.") == ["playing", "a", "plays", "."]
    assert vocabulary_of(loaded).mask_id == 4
    assert (loaded.bos_id, loaded.eos_id) == (2, 3)
    assert vocabulary_of(loaded).ordinary.tolist() == [5, 6, 7, 8, 9]


def test_sentinels_of_a_file_are_found_wherever_they_are(tmp_path):
    tokenizer = library.Tokenizer(library.models.BPE({"a": 0, "b": 1}, []))
    tokenizer.add_special_tokens(["</s>", "<extra_id_1>", "<extra_id_0>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    settings = {"eos_token": "</s>", "mask_token": {"content": "</s>"}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))

    vocabulary = vocabulary_of(tokenizers.load_file(tmp_path / "tokenizer.json"))

    assert vocabulary.sentinel_ids.tolist() == [4, 3]
    assert vocabulary.mask_id == vocabulary.eos_id == 2
    np.testing.assert_array_equal(vocabulary.ordinary, [0, 1])


def test_bytes_have_neither():
    vocabulary = vocabulary_of(tokenizers.ByteTokenizer())

    assert vocabulary.mask_id is None and len(vocabulary.sentinel_ids) == 0
    assert vocabulary.ordinary.tolist() == list(range(3, 259))
