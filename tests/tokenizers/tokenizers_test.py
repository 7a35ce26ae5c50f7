import io
import json

import numpy as np
import pytest
import sentencepiece
import tokenizers as hf

from lm.errors import UserError
from lm.system import manifest
from lm.tokenizers import tokenizers, training

CORPUS = [
    "def f(x):\n    return x + 1\n\n\ndef g(y):\n\treturn f(y) * 2\n" * 8,
    "class Thing:\n        pass\n  # The end, the very end.\n" * 8,
]
TEXTS = [
    "",
    " ",
    "   two\n\n\n   three   ",
    "\t\ttabs\t\n\r\n",
    "\0 NUL \x01\x7f\x85\u2028 controls",
    "中文，没有空格。日本語 한국어",
    "e\u0301 combining, \u00e9 composed, a\u0308\u0323 two marks",
    "👩‍👩‍👧 family 🏳️‍🌈 \U0010ffff",
    "\ufeff byte order mark and \ufffd replacement",
    "<s> </s> <pad> <unk> <0x41> <bos> [CLS] <|endoftext|> are text here",
    "\u2581 SentencePiece's own mark for a space \u2581\u2581x",
    "\u2585 and \u2047, its marks for unknown text",
    "ﬁ ligature and ½ that NFKC would change",
]


@pytest.fixture(scope="module", params=["bytes", "bpe", "unigram"])
def tokenizer(request):
    if request.param == "bytes":
        return tokenizers.ByteTokenizer()
    return training.train_sentencepiece(
        CORPUS, algorithm=request.param, vocab_size=300, user_symbols=()
    )


def random_texts(num, rng):
    """Any code points but surrogates, most of them in the lower planes."""
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x110000)])
    for _ in range(num):
        top = rng.choice([0x80, 0x3000, len(points)])
        yield "".join(map(chr, points[rng.integers(0, top, size=rng.integers(1, 60))]))


def test_decoding_gives_the_text_back(tokenizer):
    texts = [*TEXTS, *CORPUS, *random_texts(300, np.random.default_rng(0))]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids.dtype == np.int32
        assert tokenizer.decode(ids) == text


def test_text_never_becomes_a_special_token(tokenizer):
    special = {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id}
    assert len(special) == 3
    for ids in tokenizer.encode_batch([*TEXTS, "".join(map(tokenizer.piece, special))]):
        assert special.isdisjoint(ids.tolist())


def test_special_tokens_decode_to_nothing(tokenizer):
    (ids,) = tokenizer.encode_batch(["as it was"])
    around = [tokenizer.bos_id, *ids, tokenizer.eos_id, tokenizer.pad_id]
    assert tokenizer.decode(around) == "as it was"


def test_the_bytes_of_tokens_add_up(tokenizer):
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert sum(map(tokenizer.num_bytes, ids)) == len(text.encode())


def test_a_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "there")
    loaded = tokenizers.load(tmp_path / "there")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.vocab_size == tokenizer.vocab_size
    for a, b in zip(loaded.encode_batch(TEXTS), tokenizer.encode_batch(TEXTS), strict=True):
        np.testing.assert_array_equal(a, b)


def test_pieces_are_printable(tokenizer):
    assert all(tokenizer.piece(i).isprintable() for i in range(tokenizer.vocab_size))


@pytest.mark.parametrize("algorithm", ["bpe", "unigram"])
def test_training_twice_gives_the_same_model(algorithm):
    def train():
        options = dict(algorithm=algorithm, vocab_size=300, user_symbols=["<mask>"])
        return training.train_sentencepiece(CORPUS, **options)

    first = train()
    assert first.fingerprint == train().fingerprint
    assert first.encode_batch(["<mask>"])[0].tolist() == [4]


def test_a_long_text_is_not_left_out_of_training():
    long = "zebra quagga " * 100_000  # 1.3 MB in one document.
    tokenizer = training.train_sentencepiece(
        [long], algorithm="bpe", vocab_size=290, user_symbols=()
    )
    assert "zebra" in [tokenizer.piece(i).strip() for i in range(tokenizer.vocab_size)]


def test_runs_of_spaces_are_single_tokens():
    tokenizer = training.train_sentencepiece(
        CORPUS, algorithm="bpe", vocab_size=300, user_symbols=()
    )
    assert "    " in [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]


def hugging_face_file(folder, special_tokens, **beside):
    """A byte-level BPE as GPT-2's, over bytes alone."""
    tokenizer = hf.Tokenizer(hf.models.BPE())
    tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = hf.decoders.ByteLevel()
    trainer = hf.trainers.BpeTrainer(
        special_tokens=special_tokens, initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, contents in beside.items():
        (folder / f"{name}.json").write_text(json.dumps(contents))
    return folder / "tokenizer.json"


def test_tokenizer_json_round_trips_and_keeps_specials_out_of_text(tmp_path):
    tokenizer = tokenizers.load_file(hugging_face_file(tmp_path, ["<|endoftext|>"]))

    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert tokenizer.decode(ids) == text
        assert tokenizer.eos_id not in ids
        assert sum(map(tokenizer.num_bytes, ids)) == len(text.encode())
    assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id) == (None, 0, 0)
    assert tokenizer.decode([0]) == ""


def test_the_files_beside_tokenizer_json_name_its_special_tokens(tmp_path):
    path = hugging_face_file(
        tmp_path,
        ["<begin>", "<end>", "<s>", "<hole>"],
        special_tokens_map={"bos_token": "<begin>", "pad_token": "<hole>"},
        tokenizer_config={"eos_token": {"content": "<end>", "special": True}},
    )
    tokenizer = tokenizers.load_file(path)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 3)

    tokenizer.save(tmp_path / "saved")
    loaded = tokenizers.load(tmp_path / "saved")
    assert (loaded.bos_id, loaded.eos_id, loaded.pad_id) == (0, 1, 3)
    assert loaded.fingerprint == tokenizer.fingerprint


AROUND = {
    "nothing": (None, (), ()),
    "a byte-level one that trims": (hf.processors.ByteLevel(trim_offsets=True), (), ()),
    "a first token": (
        hf.processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 0)]),
        (0,),
        (),
    ),
    "both, twice at the end": (
        hf.processors.RobertaProcessing(("</s>", 1), ("<s>", 0)),
        (0,),
        (1,),
    ),
    "a sequence of them": (
        hf.processors.Sequence(
            [
                hf.processors.ByteLevel(trim_offsets=False),
                hf.processors.TemplateProcessing("$A <s> </s>", None, [("<s>", 0), ("</s>", 1)]),
            ]
        ),
        (),
        (0, 1),
    ),
}


@pytest.mark.parametrize("name", AROUND)
def test_what_stands_around_a_text_is_what_the_post_processor_writes(name, tmp_path):
    processor, before, behind = AROUND[name]
    path = hugging_face_file(tmp_path, ["<s>", "</s>"])
    library = hf.Tokenizer.from_file(str(path))
    if processor is not None:
        library.post_processor = processor
    library.enable_truncation(1)
    library.save(str(path))

    tokenizer = tokenizers.load_file(path)

    assert (tokenizer.prefix_ids, tokenizer.suffix_ids) == (before, behind)


def test_a_sentencepiece_file_without_special_tokens_says_none(tmp_path):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        bos_id=-1,
        eos_id=-1,
        minloglevel=2,
    )
    (tmp_path / "x.model").write_bytes(model.getvalue())
    tokenizer = tokenizers.load_file(tmp_path / "x.model")
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (None, None, None)
    tokenizer.encode_batch(TEXTS)  # Unknown text is no reason to stop.


@pytest.mark.parametrize(
    "name, contents, says",
    [
        ("absent.json", None, "is no file"),
        ("bad.json", "{}", "is no tokenizer.json"),
        ("bad.model", "nonsense", "is no SentencePiece model"),
    ],
)
def test_a_file_that_is_no_tokenizer_is_named(tmp_path, name, contents, says):
    if contents is not None:
        (tmp_path / name).write_text(contents)
    with pytest.raises(UserError, match=says) as error:
        tokenizers.load_file(tmp_path / name)
    assert name in str(error.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), UserError("a text is odd")])
def test_what_its_texts_raise_ends_training_as_it_is(error):
    def texts():
        yield from CORPUS
        raise error

    with pytest.raises(type(error)) as raised:
        training.train_sentencepiece(texts(), algorithm="bpe", vocab_size=300, user_symbols=())

    assert raised.value is error


def test_training_refuses_what_cannot_be():
    with pytest.raises(UserError, match="vocab_size=100000"):
        training.train_sentencepiece(["a b"], algorithm="bpe", vocab_size=100_000, user_symbols=())
    with pytest.raises(UserError, match="algorithm='wordpiece'"):
        training.train_sentencepiece(
            ["a b"], algorithm="wordpiece", vocab_size=300, user_symbols=()
        )


@pytest.mark.parametrize("has_manifest", [True, False])
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "removed", "no text"])
def test_a_damaged_tokenizer_is_one_line_that_names_its_folder(tmp_path, damage, has_manifest):
    tokenizers.ByteTokenizer().save(tmp_path)
    (tmp_path / "kind.txt").write_text("sentencepiece\n")
    model = tmp_path / "sentencepiece.model"
    model.write_bytes(b"\n\x0e\n\x05<unk>\x15" * 9)
    if has_manifest:
        manifest.write(tmp_path)
    if damage == "removed":
        model.unlink()
    elif damage == "no text":
        (tmp_path / "kind.txt").write_bytes(b"\xff\xfe")
    else:
        data = model.read_bytes()
        flipped = bytes([data[0] ^ 1]) + data[1:]
        model.write_bytes({"flipped": flipped, "cut": data[:5], "emptied": b""}[damage])

    with pytest.raises(UserError, match=f"tokenizer in {tmp_path} is damaged") as caught:
        tokenizers.load(tmp_path)

    assert "\n" not in str(caught.value)


def test_a_file_that_is_named_counts_also_beside_the_tokenizer_of_a_run(tmp_path):
    tokenizers.ByteTokenizer().save(tmp_path)
    other = hugging_face_file(tmp_path, ["<s>", "</s>"]).rename(tmp_path / "other.json")

    assert tokenizers.load_file(other).vocab_size != 259
    assert tokenizers.load_file(tmp_path).fingerprint == "bytes"
    assert tokenizers.load_file(tmp_path / "kind.txt").fingerprint == "bytes"
