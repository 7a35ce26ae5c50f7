"""Folders of `transformers` with tokenizers of every kind, made on the spot; many scripts."""

import functools
import io
import itertools
import json
import random

import sentencepiece
import tokenizers as hf
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from lm.tokenizers import sentencepiece_proto

LINES = [
    "The quick brown fox jumps over the lazy dog, and isn't it lazy?",
    "She'll pay 1,234.50 dollars for 17 things on 2024-05-06.",
    "北京是中国的首都，中国的首都是北京。",
    "東京は日本の首都です。ガラスの窓、ｶﾞﾗｽ。",
    "Die Straße in München ist schön, und Grüße an die Mädchen!",
    "القاهرة هي عاصمة مصر، والكتابُ في البيت.",
    "def f(x):\n    return x + 1  # the end\n\n\nclass A:\n\tpass\n",
    "👋🏽 hello ❤\ufe0f 👩‍👩‍👧 family",
    "e\u0301 café ﬁne ½ ㍿ Ⅳ résumé",
    "สวัสดีครับ привет мир नमस्ते",
    "`` quoted '' text -- with <tags> and [brackets] {braces}",
    "UPPER lower MiXeD İstanbul ÀÉÎ",
]
SPACES = ["", " ", "  ", "\t", "\n", "\n\n", "\u00a0", "\u3000", "\r\n", "\u200b", " \n "]


@functools.cache
def texts(num=200):
    """Each line, and lines between, before and behind spaces of all sorts."""
    rng = random.Random(0)
    words = [word for line in LINES for word in line.split(" ")]
    found = ["", *SPACES, *LINES]
    while len(found) < num:
        parts = rng.choices([*words, *LINES], k=rng.randint(1, 4))
        spaces = rng.choices(SPACES, k=len(parts) + 1)
        found.append("".join(itertools.chain(*itertools.zip_longest(spaces, parts, fillvalue=""))))
    return found


def write(folder, name, value):
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(value, bytes):
        (folder / name).write_bytes(value)
    else:
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name).write_text(text, encoding="utf-8")


@functools.cache
def _byte_level_json(*, prefix=False, special=("<s>", "</s>", "<pad>", "<unk>", "<mask>")):
    tokenizer = hf.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES * 3, trainer)
    return tokenizer.to_str()


def _byte_level(**settings):
    return hf.Tokenizer.from_str(_byte_level_json(**settings))


@functools.cache
def sentencepiece_model(algorithm="unigram", **settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([part for line in LINES * 3 for part in line.split("\n") if part]),
        model_writer=model,
        model_type=algorithm,
        vocab_size=420,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **settings,
    )
    return model.getvalue()


def _bpe_files(folder, special=("<s>", "</s>", "<pad>", "<unk>", "<mask>")):
    parts = json.loads(_byte_level_json(special=special))["model"]
    write(folder, "vocab.json", parts["vocab"])
    merges = [" ".join(merge) for merge in parts["merges"]]
    write(folder, "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def byte_level(folder, **settings):
    _byte_level().save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    write(folder, "tokenizer_config.json", names | settings)


def with_first_token(folder):
    tokenizer = _byte_level()
    template = processors.TemplateProcessing(
        "<s> $A", "<s> $A <s>:1 $B:1", [("<s>", tokenizer.token_to_id("<s>"))]
    )
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    write(folder, "tokenizer_config.json", names)


def prefix_space(folder):
    _byte_level(prefix=True).save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def _metaspace_bpe(prepend):
    """As the files of Llama 2."""
    special = ["<unk>", "<s>", "</s>"]
    alphabet = sorted(set("".join(LINES)) - {" "})[:90]
    names = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *alphabet]
    merges = [("t", "h"), ("th", "e"), ("\u2581", "the"), ("\u2581", "\u2581"), ("i", "s")]
    names += ["".join(merge) for merge in merges]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    tokenizer = hf.Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    steps = [normalizers.Prepend("\u2581")] * prepend + [normalizers.Replace(" ", "\u2581")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A", "<s> $A <s>:1 $B:1", [("<s>", 1)]
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def llama2(folder, **settings):
    _metaspace_bpe(prepend=True).save(str(folder / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    write(folder, "tokenizer_config.json", names | settings)
    write(folder, "config.json", {"model_type": "llama"})


@functools.cache
def _unigram_pieces(first=("<pad>", "</s>", "<unk>")):
    words = sorted({word for line in LINES for word in line.split()})
    alphabet = sorted(set("".join(LINES)) - set(" \n\t"))
    pieces = [("\u2581", -3.0), *((f"\u2581{word}", -8.0 - i / 99) for i, word in enumerate(words))]
    pieces += [(c, -9.0 - i / 99) for i, c in enumerate(alphabet[:-5])]
    return [*((name, 0.0) for name in first), *pieces]


def _charsmap():
    """SentencePiece's nmt_nfkc, compiled."""
    proto = sentencepiece_proto.ModelProto.FromString(sentencepiece_model())
    return proto.normalizer_spec.precompiled_charsmap


def _unigram(first, unk_id):
    tokenizer = hf.Tokenizer(models.Unigram(list(_unigram_pieces(first)), unk_id, False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Precompiled(_charsmap()),
            normalizers.Strip(left=False, right=True),
            normalizers.Replace(hf.Regex(" {2,}"), "\u2581"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def unigram(folder, tokenizer_class="PreTrainedTokenizerFast", **settings):
    """As the files of T5."""
    tokenizer = _unigram(("<pad>", "</s>", "<unk>"), 2)
    tokenizer.post_processor = processors.TemplateProcessing(
        "$A </s>", "$A </s> $B </s>", [("</s>", 1)]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", names | {"tokenizer_class": tokenizer_class} | settings)


def xlm_roberta(folder):
    tokenizer = _unigram(("<s>", "<pad>", "</s>", "<unk>"), 3)
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder, "config.json", {"model_type": "xlm-roberta"})


BERT_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@functools.cache
def _word_pieces(special=tuple(BERT_SPECIAL)):
    words = {part for line in LINES for part in line.split()}
    words |= {word.casefold() for word in words}
    known = {word for word in words if word.isalnum() and len(word) < 8}
    letters = {c for line in LINES for c in line + line.casefold() if not c.isspace()}
    letters -= {"窓", "Ⅳ"}
    names = [*special, *sorted(known | letters)]
    return [*names, *(f"##{c}" for c in sorted(letters) if c.isalnum())]


def vocab_txt(folder, model_type="bert", special=tuple(BERT_SPECIAL), **settings):
    write(folder, "vocab.txt", "\n".join(_word_pieces(special)) + "\n")
    write(folder, "config.json", {"model_type": model_type})
    if settings:
        write(folder, "tokenizer_config.json", settings)


def word_piece(folder, tokenizer_class="PreTrainedTokenizerFast", **settings):
    vocabulary = {name: i for i, name in enumerate(_word_pieces())}
    tokenizer = hf.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(BERT_SPECIAL)
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", [("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    write(folder, "tokenizer_config.json", names | {"tokenizer_class": tokenizer_class} | settings)


def gpt2_files(folder, **settings):
    _bpe_files(folder, special=("<|endoftext|>",))
    write(folder, "config.json", {"model_type": "gpt2"})
    write(folder, "added_tokens.json", {"<new>": 421, "<other>": 420})
    write(folder, "special_tokens_map.json", {"pad_token": "<pad>", "eos_token": "<|endoftext|>"})
    if settings:
        write(folder, "tokenizer_config.json", settings)


def roberta_files(folder, **settings):
    _bpe_files(folder)
    write(folder, "config.json", {"model_type": "roberta"})
    if settings:
        write(folder, "tokenizer_config.json", settings)


def added_tokens(folder):
    tokenizer = _byte_level()
    tokenizer.add_tokens(
        [
            hf.AddedToken("lazy", single_word=True),
            hf.AddedToken("fox", lstrip=True),
            hf.AddedToken("首都", rstrip=True, normalized=False),
            hf.AddedToken("Straße in", normalized=True),
        ]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder, "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})


def qwen2(folder):
    tokenizer = _byte_level(special=("<s>",))
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_end|>"])
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False}
    decoder = {size - 2: {"content": "<|endoftext|>"} | flags, size - 1: {"content": "<|im_end|>"}}
    write(
        folder,
        "tokenizer_config.json",
        {
            "added_tokens_decoder": {i: flags | token for i, token in decoder.items()},
            "add_prefix_space": False,
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "tokenizer_class": "Qwen2Tokenizer",
            "additional_special_tokens": ["<|im_end|>"],
        },
    )
    write(folder, "config.json", {"model_type": "qwen2"})


def llama3(folder):
    tokenizer = _byte_level()
    cut = r"(?i:'s|'t)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(hf.Regex(cut), behavior="isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 0)])
    tokenizer.save(str(folder / "tokenizer.json"))
    write(
        folder,
        "tokenizer_config.json",
        {"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"},
    )
    write(folder, "config.json", {"model_type": "llama"})


def spiece(folder, model_type="t5", name="spiece.model", algorithm="unigram", **settings):
    special = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    if model_type != "t5":
        special = dict(unk_id=0, bos_id=1, eos_id=2)
    if model_type == "albert":
        special = dict(pad_id=0, unk_id=1, bos_id=-1, eos_id=-1)
        special["control_symbols"] = "[CLS],[SEP],[MASK]"
    write(folder, name, sentencepiece_model(algorithm, **special))
    write(folder, "config.json", {"model_type": model_type})
    if settings:
        write(folder, "tokenizer_config.json", settings)


def llama_model(folder, model_type="llama", **settings):
    model = sentencepiece_model(
        "bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        user_defined_symbols="<tool>,  ,lazy",
    )
    write(folder, "tokenizer.model", model)
    write(folder, "config.json", {"model_type": model_type})
    if settings:
        write(folder, "tokenizer_config.json", settings)


LLAMA = {"tokenizer_class": "LlamaTokenizer"}
KINDS = {
    "byte-level": byte_level,
    "byte-level, first token": with_first_token,
    "byte-level, prefix space": prefix_space,
    "byte-level, flags beside": functools.partial(
        byte_level,
        add_bos_token=True,
        image_token="<image>",
        extra_special_tokens={"sound": "<sound>"},
    ),
    "byte-level, list of tokens": functools.partial(
        byte_level, additional_special_tokens=["<a>", {"content": "<b>", "__type": "AddedToken"}]
    ),
    "byte-level, added tokens": added_tokens,
    "llama 3": llama3,
    "qwen 2, no bos": qwen2,
    "llama 2": functools.partial(llama2, tokenizer_class="PreTrainedTokenizerFast"),
    "llama 2, its class": functools.partial(llama2, tokenizer_class="LlamaTokenizerFast"),
    "llama 2, legacy": functools.partial(llama2, **LLAMA, legacy=True),
    "llama 2, no prefix": functools.partial(llama2, **LLAMA, add_prefix_space=False),
    "unigram": unigram,
    "t5": functools.partial(unigram, tokenizer_class="T5Tokenizer"),
    "t5, few sentinels": functools.partial(unigram, tokenizer_class="T5TokenizerFast", extra_ids=3),
    "xlm-roberta": xlm_roberta,
    "word pieces": word_piece,
    "word pieces, other class": functools.partial(word_piece, tokenizer_class="BertTokenizerFast"),
    "vocab.txt": vocab_txt,
    "vocab.txt, cased": functools.partial(
        vocab_txt, do_lower_case=False, tokenize_chinese_chars=False
    ),
    "vocab.txt, accents": functools.partial(vocab_txt, strip_accents=False, never_split=["fox"]),
    "vocab.txt, cased, no accents": functools.partial(
        vocab_txt,
        model_type="distilbert",
        do_lower_case=False,
        strip_accents=True,
        do_basic_tokenize=False,
    ),
    "vocab.txt, other names": functools.partial(
        vocab_txt,
        special=("<pad>", "<unk>", "<s>", "</s>", "<mask>"),
        pad_token="<pad>",
        unk_token="<unk>",
        cls_token={"content": "<s>", "__type": "AddedToken"},
        sep_token="</s>",
        mask_token="<mask>",
    ),
    "vocab.json": gpt2_files,
    "vocab.json, prefix space": functools.partial(
        gpt2_files, add_prefix_space=True, add_bos_token=True, pad_token="<|endoftext|>"
    ),
    "roberta": roberta_files,
    "roberta, prefix space": functools.partial(roberta_files, add_prefix_space=True),
    "gpt-neox": functools.partial(
        gpt2_files, tokenizer_class="GPTNeoXTokenizer", add_bos_token=True
    ),
    "spiece.model": spiece,
    "spiece.model, no sentinels": functools.partial(spiece, extra_ids=0),
    "albert": functools.partial(spiece, model_type="albert"),
    "xlm-roberta model": functools.partial(
        spiece, model_type="xlm-roberta", name="sentencepiece.bpe.model"
    ),
    "mbart model": functools.partial(spiece, model_type="mbart", name="sentencepiece.bpe.model"),
    "camembert model": functools.partial(
        spiece, model_type="camembert", name="sentencepiece.bpe.model"
    ),
    "tokenizer.model": llama_model,
    "tokenizer.model, llama": functools.partial(llama_model, **LLAMA),
    "tokenizer.model, bos": functools.partial(llama_model, **LLAMA, add_bos_token=True),
    "tokenizer.model, not legacy": functools.partial(
        llama_model, legacy=False, add_bos_token=True, add_eos_token=True
    ),
    "tokenizer.model, unigram": functools.partial(
        spiece, model_type="llama", name="tokenizer.model"
    ),
    "tokenizer.model, nfkc": functools.partial(
        spiece, model_type="llama", name="tokenizer.model", algorithm="bpe"
    ),
}
