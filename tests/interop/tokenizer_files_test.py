"""Exported tokenizers, beside what AutoTokenizer of `transformers` makes of them."""

import json

import pytest
import transformers

from lm.errors import UserError
from lm.interop import tokenizer_files
from lm.tokenizers import framing, tokenizers, training
from tests import tokenizer_folders

FRAMES = {
    "a pair": lambda t: (t.frame(1), t.frame(2)),
    "first alone": lambda t: tuple(framing.around((t.bos_id,), (), n) for n in (1, 2)),
    "last alone": lambda t: tuple(framing.around((), (t.eos_id,), n) for n in (1, 2)),
    "nothing": lambda t: tuple(framing.around((), (), n) for n in (1, 2)),
}


def _trained(kind):
    if kind in ("bpe", "unigram"):
        return training.train_sentencepiece(
            tokenizer_folders.LINES * 3, algorithm=kind, vocab_size=440, user_symbols=("<mask>",)
        )
    if kind == "bytes":
        return tokenizers.ByteTokenizer()
    return tokenizers.SentencePieceTokenizer(
        tokenizer_folders.sentencepiece_model(
            kind.split()[1], bos_id=1, eos_id=2, pad_id=3, byte_fallback="bytes" in kind
        )
    )


TRAINED = ("bytes", "bpe", "unigram", "nfkc unigram", "nfkc bpe", "nfkc bpe with bytes")
TEXTS = list(filter(None, tokenizer_folders.texts()))


def exported(tokenizer, folder, frames, num_types=2, **config):
    tokenizer_files.save(tokenizer, folder, frames=frames, max_len=512, num_types=num_types)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"} | config))
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("around", FRAMES)
@pytest.mark.parametrize("kind", TRAINED)
def test_what_was_trained_here_is_read_by_transformers(kind, around, tmp_path):
    tokenizer = _trained(kind)
    frames = FRAMES[around](tokenizer)
    theirs = exported(tokenizer, tmp_path, frames)
    ids = tokenizer.encode_batch(TEXTS)
    single, pair = theirs(TEXTS), theirs(TEXTS, TEXTS[::-1])
    for i, (text, a, b) in enumerate(zip(TEXTS, ids, ids[::-1], strict=True)):
        assert single.input_ids[i] == frames[0].join([a])[0].tolist(), repr(text)
        both, types = frames[1].join([a, b])
        assert pair.input_ids[i] == both.tolist(), repr(text)
        assert pair.token_type_ids[i] == types.tolist()
    for name in ("pad", "bos", "eos", "mask", "unk"):
        assert getattr(theirs, f"{name}_token_id") == getattr(tokenizer, f"{name}_id"), name
    assert (theirs.cls_token is not None) == (around == "a pair")
    assert theirs.model_max_length == 512
    assert tokenizer_files.is_read_back(tmp_path)


@pytest.mark.parametrize("kind", tokenizer_folders.KINDS)
def test_what_was_imported_goes_back_as_it_came(kind, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    tokenizer_folders.KINDS[kind](source)
    first = transformers.AutoTokenizer.from_pretrained(source)
    tokenizers.load_file(source).save(tmp_path / "run")
    tokenizer, target = tokenizers.load(tmp_path / "run"), tmp_path / "target"
    target.mkdir()
    config = source / "config.json"
    config = json.loads(config.read_text()) if config.exists() else {}
    theirs = exported(tokenizer, target, None, **config)

    texts = tokenizer_folders.texts()
    assert theirs(texts).input_ids == first(texts).input_ids
    expected = first("a fox", "the thing", return_token_type_ids=True)
    assert theirs("a fox", "the thing", return_token_type_ids=True) == expected
    assert theirs.get_vocab() == first.get_vocab()
    for name in ("bos", "eos", "sep", "cls"):
        wanted = getattr(first, f"{name}_token")
        assert getattr(theirs, f"{name}_token") in (wanted, *["<s>", "</s>"] * (wanted is None))
    assert tokenizer_files.is_read_back(target)


def test_an_imported_tokenizer_is_framed_as_the_model_was_trained(tmp_path):
    tokenizer_folders.byte_level(tmp_path)
    tokenizer = tokenizers.load_file(tmp_path)
    frames = FRAMES["a pair"](tokenizer)
    (tmp_path / "out").mkdir()
    theirs = exported(tokenizer, tmp_path / "out", frames, num_types=1, model_type="roberta")
    ids = tokenizer.encode_batch(["the fox", "a dog"])
    assert theirs("the fox", "a dog").input_ids == frames[1].join(ids)[0].tolist()
    assert "token_type_ids" not in theirs("the fox", "a dog")
    # What stands for no space is what pictures and taggers point at.
    spans = theirs("the fox", return_offsets_mapping=True).offset_mapping
    assert "".join("the fox"[start:end] for start, end in spans) == "thefox"


def test_a_class_that_reads_text_in_another_way_is_noticed(tmp_path):
    tokenizer = tokenizers.ByteTokenizer()
    exported(tokenizer, tmp_path, None)
    assert tokenizer_files.is_read_back(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    assert not tokenizer_files.is_read_back(tmp_path)


def test_a_sentencepiece_model_of_words_is_refused(tmp_path):
    model = tokenizer_folders.sentencepiece_model("word")
    with pytest.raises(UserError, match="only unigram and BPE"):
        exported(tokenizers.SentencePieceTokenizer(model), tmp_path, None)
