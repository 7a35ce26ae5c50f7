"""Defines the tokenizer classes of `transformers` 5 that make their own tokenizer of a vocabulary.

Such a class takes the vocabulary, the merges and the post-processor of a tokenizer.json, or reads
older files; how text is normalised and split is the class's own, whatever tokenizer.json says.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from lm.tokenizers.pieces import SPACE_MARK

GENERIC = "TokenizersBackend"  # The class that takes tokenizer.json as it stands.


class Vocabulary(NamedTuple):
    """What a class starts from.

    pieces: {piece: id} of a BPE or WordPiece; [(piece, score), ...] of a Unigram.
    merges: of a BPE.
    charsmap: how SentencePiece normalises text, compiled; None where it does not.
    special: the control and user-defined pieces of a SentencePiece model.
    """

    pieces: Any
    merges: list[tuple[str, str]] | None = None
    charsmap: bytes | None = None
    special: Sequence[AddedToken] = ()


class TokenizerClass(NamedTuple):
    """One class.

    files: where the vocabulary is, where there is no tokenizer.json.
    model: the kind of its vocabulary.
    names: of special tokens that the folder does not name otherwise.
    build: makes all but tokens that are added, and what stands around a text.
    frame: makes the class's own post-processor of the tokenizer, its names and settings; None: that
      of tokenizer.json.
    extra: lists special tokens besides those with names, unless the folder lists its own; given
      those of a SentencePiece model.
    from_sentencepiece: puts the pieces of a .model in the order of ids that the class has.
    input_names: of the model that the class is for, where they are not the usual ones.
    """

    files: tuple[str, ...]
    model: str
    names: Mapping[str, str | None]
    build: Callable[[Vocabulary, Mapping[str, Any], Mapping[str, str | None]], tokenizers.Tokenizer]
    frame: Callable[..., Any] | None = None
    extra: Callable[..., list[AddedToken]] = lambda settings, special: list(special)
    from_sentencepiece: Callable[..., list] = lambda pieces, settings, names: pieces
    input_names: tuple[str, ...] = ()


def _bert(vocabulary, settings, names):
    tokenizer = tokenizers.Tokenizer(
        models.WordPiece(vocabulary.pieces, unk_token=str(names["unk_token"]))
    )
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _byte_level(vocabulary, settings, names):
    pieces, merges = vocabulary.pieces, vocabulary.merges or []
    model = models.BPE(pieces, merges, continuing_subword_prefix="", end_of_word_suffix="")
    tokenizer = tokenizers.Tokenizer(model)
    prefix = bool(settings.get("add_prefix_space"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _gpt_neox(vocabulary, settings, names):
    tokenizer = _byte_level(vocabulary, settings, names)
    tokenizer.normalizer = normalizers.NFC()
    return tokenizer


# How Qwen 2 cuts text: contractions, words with one mark before them, single digits, runs of marks,
# line ends, spaces.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _qwen2(vocabulary, settings, names):
    tokenizer = _gpt_neox(vocabulary, settings, names)
    prefix = bool(settings.get("add_prefix_space"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_QWEN2), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False),
        ]
    )
    return tokenizer


def _byte_fallback(vocabulary, prefix: bool, **unk):
    """Makes a BPE that spells what it does not know in bytes; decoding takes off a prefix space."""
    pieces, merges = vocabulary.pieces, vocabulary.merges or []
    model = models.BPE(pieces, merges, fuse_unk=True, byte_fallback=True, **unk)
    tokenizer = tokenizers.Tokenizer(model)
    steps = [decoders.Replace(SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence([*steps, *strip])
    return tokenizer


def _llama(vocabulary, settings, names):
    prefix = settings.get("add_prefix_space")
    prefix = prefix is None or bool(prefix)  # null is the default, not False.
    tokenizer = _byte_fallback(vocabulary, prefix)
    # Legacy: a space behind each added token, too, though the text merely goes on there.
    scheme = ("always" if settings.get("legacy", False) else "first") if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    return tokenizer


def _gemma(vocabulary, settings, names):
    tokenizer = _byte_fallback(vocabulary, False, unk_token=str(names["unk_token"]))
    tokenizer.normalizer = normalizers.Replace(" ", SPACE_MARK)  # And no space in front.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    return tokenizer


def _words(vocabulary, unk_id: int, prefix: bool):
    """Makes a Unigram over words, whose spaces are marked and otherwise lost."""
    tokenizer = tokenizers.Tokenizer(models.Unigram(vocabulary.pieces, unk_id, False))
    if vocabulary.charsmap:
        tokenizer.normalizer = normalizers.Precompiled(vocabulary.charsmap)
    scheme = "always" if prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return tokenizer


def _t5(vocabulary, settings, names):
    return _words(vocabulary, 2, True)  # The id of unk, behind pad and eos.


def _xlm_roberta(vocabulary, settings, names):
    return _words(vocabulary, 3, settings.get("add_prefix_space", True))  # See `_fairseq`.


def _mbart(vocabulary, settings, names):
    return _words(vocabulary._replace(charsmap=None), 3, True)


def _camembert(vocabulary, settings, names):
    unk_ids = (i for i, (piece, _) in enumerate(vocabulary.pieces) if piece == names["unk_token"])
    return _words(vocabulary, next(unk_ids, 0), settings.get("add_prefix_space", True))


def _albert(vocabulary, settings, names):
    prefix = settings.get("add_prefix_space", True)
    tokenizer = _words(vocabulary._replace(charsmap=None), 1, prefix)
    # LaTeX's quotes first, in ALBERT's order; its own charsmap comes last.
    steps = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not settings.get("keep_accents", False):
        steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case", True):
        steps.append(normalizers.Lowercase())
    if vocabulary.charsmap:
        steps.append(normalizers.Precompiled(vocabulary.charsmap))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.post_processor = _BERT_FRAME(tokenizer, names, settings)
    return tokenizer


def _template(single: str, pair: str) -> Callable[..., Any]:
    """Makes a frame from the notation of `tokenizers`, with {cls}, {sep}, {bos} and {eos}."""

    def frame(tokenizer, names, settings):
        texts = {name.removesuffix("_token"): str(text) for name, text in names.items()}
        used = set(re.findall(r"\{(\w+)\}", single + pair))
        # As lists: a name may hold a space.
        fill = lambda template: [part.format(**texts) for part in template.split()]
        ids = [(texts[name], tokenizer.token_to_id(texts[name])) for name in sorted(used)]
        return processors.TemplateProcessing(fill(single), fill(pair), list(dict.fromkeys(ids)))

    return frame


_BERT_FRAME = _template("{cls}:0 $A:0 {sep}:0", "{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1")
_XLM_FRAME = _template("{bos} $A {eos}", "{bos} $A {eos} {eos} $B {eos}")
_T5_FRAME = _template("$A {eos}", "$A {eos} $B {eos}")


def frame_by_flags(tokenizer, names, settings):
    """Puts bos and eos where `add_bos_token` and `add_eos_token` of tokenizer_config.json ask."""
    has = lambda name: settings.get(f"add_{name}") and names.get(name) is not None
    bos = "{bos}" if has("bos_token") else ""
    eos = "{eos}" if has("eos_token") else ""
    pair = f"{bos}:0 $A:0 {eos}:0 {bos}:1 $B:1 {eos}:1"
    pair = re.sub(r"(?<!\S):\d", "", pair)  # A type alone is left where there is no token.
    return _template(f"{bos} $A {eos}", pair)(tokenizer, names, settings)


def _roberta_frame(tokenizer, names, settings):
    pair = lambda name: (str(names[name]), tokenizer.token_to_id(str(names[name])))
    trims, prefix = settings.get("trim_offsets", True), settings.get("add_prefix_space", False)
    return processors.RobertaProcessing(pair("sep_token"), pair("cls_token"), trims, prefix)


def _mbart_frame(tokenizer, names, settings):
    source = {"source_token": settings.get("src_lang") or "en_XX"}
    template = _template("$A {eos} {source}", "$A $B {eos} {source}")
    return template(tokenizer, {**names, **source}, settings)


_MBART_LANGUAGES = [
    *("ar_AR", "cs_CZ", "de_DE", "en_XX", "es_XX", "et_EE", "fi_FI", "fr_XX", "gu_IN", "hi_IN"),
    *("it_IT", "ja_XX", "kk_KZ", "ko_KR", "lt_LT", "lv_LV", "my_MM", "ne_NP", "nl_XX", "ro_RO"),
    *("ru_RU", "si_LK", "tr_TR", "vi_VN", "zh_CN"),
]


def _sentinels(settings: Mapping[str, Any], special: Sequence[AddedToken]) -> list[AddedToken]:
    if any("<extra_id_" in token.content for token in special):
        return list(special)
    return [*special, *_named(f"<extra_id_{i}>" for i in range(settings.get("extra_ids", 100)))]


def _named(names: Iterable[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True) for name in names]


def _with_sentinels(pieces, settings, names):
    num = settings.get("extra_ids", 100)
    return [*pieces, *((f"<extra_id_{i}>", 0.0) for i in reversed(range(num)))]


def _fairseq(behind: list[str]) -> Callable[..., list]:
    """Counts four special tokens first, as fairseq does, of which SentencePiece has three."""

    def order(pieces, settings, names):
        first = [str(names[f"{name}_token"]) for name in ("bos", "pad", "eos", "unk")]
        last = [*behind, str(names["mask_token"])]
        return [*((name, 0.0) for name in first), *pieces[3:], *((name, 0.0) for name in last)]

    return order


def _camembert_order(pieces, settings, names):
    """Puts its special tokens first; those of SentencePiece stay, out of use."""
    first = [("<s>NOTUSED", 0.0), (str(names["pad_token"]), 0.0), ("</s>NOTUSED", 0.0)]
    first += [(str(names["unk_token"]), 0.0), ("<unk>NOTUSED", -100.0)]
    return [*first, *pieces[1:], (str(names["mask_token"]), 0.0)]


def _special(**names: str | None) -> dict[str, str | None]:
    return {f"{name}_token": text for name, text in names.items()}


_BERT_NAMES = _special(unk="[UNK]", sep="[SEP]", pad="[PAD]", cls="[CLS]", mask="[MASK]")
_ROBERTA_NAMES = _special(
    bos="<s>", eos="</s>", sep="</s>", cls="<s>", unk="<unk>", pad="<pad>", mask="<mask>"
)
_END = "<|endoftext|>"
_BPE_FILES = ("vocab.json", "merges.txt")

CLASSES = {
    "BertTokenizer": TokenizerClass(
        ("vocab.txt",),
        "WordPiece",
        _BERT_NAMES,
        _bert,
        _BERT_FRAME,
        input_names=("input_ids", "token_type_ids", "attention_mask"),
    ),
    "GPT2Tokenizer": TokenizerClass(
        _BPE_FILES, "BPE", _special(unk=_END, bos=_END, eos=_END, pad=None), _byte_level
    ),
    "RobertaTokenizer": TokenizerClass(
        _BPE_FILES, "BPE", _ROBERTA_NAMES, _byte_level, _roberta_frame
    ),
    "GPTNeoXTokenizer": TokenizerClass(
        _BPE_FILES,
        "BPE",
        _special(unk=_END, bos=_END, eos=_END, pad="<|padding|>"),
        _gpt_neox,
        frame_by_flags,
    ),
    "Qwen2Tokenizer": TokenizerClass(
        _BPE_FILES, "BPE", _special(unk=_END, bos=None, eos=_END, pad=_END), _qwen2
    ),
    "LlamaTokenizer": TokenizerClass(
        ("tokenizer.model",), "BPE", _special(unk="<unk>", bos="<s>", eos="</s>"), _llama
    ),
    "GemmaTokenizer": TokenizerClass(
        ("tokenizer.model",),
        "BPE",
        _special(unk="<unk>", bos="<bos>", eos="<eos>", pad="<pad>", mask="<mask>"),
        _gemma,
    ),
    "T5Tokenizer": TokenizerClass(
        ("spiece.model",),
        "Unigram",
        _special(eos="</s>", unk="<unk>", pad="<pad>"),
        _t5,
        _T5_FRAME,
        _sentinels,
        _with_sentinels,
    ),
    "XLMRobertaTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        "Unigram",
        _ROBERTA_NAMES,
        _xlm_roberta,
        _XLM_FRAME,
        from_sentencepiece=_fairseq([]),
    ),
    "MBartTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        "Unigram",
        _ROBERTA_NAMES,
        _mbart,
        _mbart_frame,
        lambda settings, special: [*_named(_MBART_LANGUAGES), *special],
        _fairseq(_MBART_LANGUAGES),
    ),
    "CamembertTokenizer": TokenizerClass(
        ("sentencepiece.bpe.model",),
        "Unigram",
        _ROBERTA_NAMES,
        _camembert,
        _XLM_FRAME,
        lambda settings, special: (
            list(special) or _named(("<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"))
        ),
        _camembert_order,
    ),
    "AlbertTokenizer": TokenizerClass(
        ("spiece.model",),
        "Unigram",
        _BERT_NAMES | _special(bos="[CLS]", eos="[SEP]", unk="<unk>", pad="<pad>"),
        _albert,
    ),
}
