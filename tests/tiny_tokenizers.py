"""Tokenizers of every kind that people publish, trained on a few lines; texts in many scripts."""

import functools
import io

import sentencepiece
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lm.tokenizers import tokenizers, training
from lm.tokenizers.sentencepiece_proto import BYTE, NORMAL, UNKNOWN, ModelProto

CORPUS = [
    "The quick brown fox jumps over the lazy dog; the thing was unbelievable.",
    "She did not believe it, and the things that he said were not believable.",
    "北京是中国的首都，中国的首都是北京。",
    "東京は日本の首都です。ガラスの窓。",
    "Die Straße in München ist schön, und die Mädchen hören Grüße.",
    "القاهرة هي عاصمة مصر والكتاب في البيت",
    "👋🏽 ❤\ufe0f hello cafe résumé",
] * 4
TEXTS = [
    "",
    " ",
    "a",
    "The unbelievable thing, isn't it?",
    "北京是中国的首都。",
    "東京の「ガラス」は、きれいです。",
    "Die Straße in München – schön!",
    "القاهرة هي عاصمة مصر",
    "مُحَمَّد كتب الكِتابَ",
    "👩‍👩‍👧 and 👋🏽, 🏳️‍🌈❤\ufe0f!",
    "e\u0301 cafe\u0301s a\u0308\u0323bc",
    "สวัสดีครับ ผมชื่อ",
    "\tif x:\n\n    return  x\t\n",
    "  two  spaces   three  ",
    "the ① ﬁne ㍿ ½ ｶﾞﾗｽ café",
    "中 \u2581 mark\u2581s \u2581\u2581",
    "\ufeff\u200b zero\u200dwidth \ufe0f\u0301 lone\u00ad",
    "\u3000東京\u00a0は",
]


def _sentencepiece_nfkc():
    """As most published models: with a space first, spaces joined, NFKC, and no bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=model,
        vocab_size=150,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return tokenizers.SentencePieceTokenizer(model.getvalue())


def _hugging_face(tokenizer):
    return tokenizers.HuggingFaceTokenizer({"tokenizer.json": tokenizer.to_str().encode()})


def _merged(merges):
    """What a BPE learns: "t h" makes "th"."""
    pairs = [tuple(merge.split()) for merge in merges]
    return pairs, ["".join(pair) for pair in pairs]


def _byte_level(*, prefix, trim):
    merges, merged = _merged(["Ġ t", "Ġt h", "Ġth e", "h e", "t he", "i n", "in g", "Ġth ing"])
    names = ["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), *merged]
    tokenizer = hf.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=trim)
    return _hugging_face(tokenizer)


def _word_piece():
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "thing", "un", "able", "hello"]
    names += sorted({c for c in "".join(CORPUS).casefold() if c.isprintable() and c != " "})
    names += [f"##{name}" for name in ("s", "believ", "able", "t", "afe", *"abcdefghijklmnopqr")]
    tokenizer = hf.BertWordPieceTokenizer({name: i for i, name in enumerate(names)}, lowercase=True)
    return _hugging_face(tokenizer)


def _unigram(pre_tokenizer):
    tokenizer = hf.Tokenizer(models.Unigram())
    steps = [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(hf.Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return _hugging_face(tokenizer)


def _byte_names():
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _llama_pieces():
    merges, merged = _merged(["t h", "th e", "\u2581 the", "i n", "in g", "th ing", "\u2581 thing"])
    return merges, ["<unk>", *_byte_names(), *merged, "\u2581", *"theings北京は"]


def _sentencepiece_llama():
    """As Llama 2's: a BPE that puts a space first, and spells unknown characters in bytes."""
    proto = ModelProto()
    for i, name in enumerate(_llama_pieces()[1]):
        kinds = {"<unk>": UNKNOWN} | dict.fromkeys(_byte_names(), BYTE)
        proto.pieces.add(piece=name, score=-i, type=kinds.get(name, NORMAL))
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.byte_fallback, trainer.vocab_size = 2, True, len(proto.pieces)
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, -1, -1, -1
    normalizer.add_dummy_prefix, normalizer.remove_extra_whitespaces = True, False
    return tokenizers.SentencePieceTokenizer(proto.SerializeToString())


def _llama():
    """The same as a tokenizer.json, as `transformers` converts it."""
    merges, names = _llama_pieces()
    vocabulary = {name: i for i, name in enumerate(names)}
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = hf.Tokenizer(model)
    steps = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    return _hugging_face(tokenizer)


def _unigram_bytes():
    known = ["\u2581", "\u2581the", *"theings北京は"]
    pieces = [("<unk>", 0.0), *((name, -2.0) for name in known)]
    pieces += [(name, -9.0) for name in _byte_names()]
    tokenizer = hf.Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    steps = [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first", split=False)]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Fuse()])
    return _hugging_face(tokenizer)


_KINDS = {
    "bytes": tokenizers.ByteTokenizer,
    "sentencepiece": lambda: training.train_sentencepiece(
        CORPUS, algorithm="bpe", vocab_size=430, user_symbols=()
    ),
    "sentencepiece nfkc": _sentencepiece_nfkc,
    "sentencepiece llama": _sentencepiece_llama,
    "gpt2": lambda: _byte_level(prefix=False, trim=False),
    "roberta": lambda: _byte_level(prefix=True, trim=True),
    "bert": _word_piece,
    "t5": lambda: _unigram(pre_tokenizers.Metaspace()),
    "xlm-r": lambda: _unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
    "llama": _llama,
    "unigram bytes": _unigram_bytes,
}
KINDS = tuple(_KINDS)
LOSSLESS = ("bytes", "sentencepiece", "sentencepiece llama", "gpt2", "llama", "unigram bytes")


@functools.cache
def tokenizer_of(kind):
    """One for all tests of a process."""
    return _KINDS[kind]()
