"""Writes our tokenizers as AutoTokenizer of `transformers` loads them: same ids, same frames."""

import json
import pathlib
import re
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, processors

from lm.system import atomic_files
from lm.tokenizers import sentencepiece_files, sentencepiece_proto, tokenizer_folder
from lm.tokenizers.framing import Frame, frame_of
from lm.tokenizers.tokenizer_folder import CONFIG, NAMES, TOKENIZER
from lm.tokenizers.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)

_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def save(
    tokenizer: Tokenizer,
    folder: pathlib.Path,
    *,
    frames: tuple[Frame, Frame] | None,
    max_len: int | None,
    num_types: int,
    cut_to: int | None = None,
    has_pad: bool = True,
) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Ids are the same for every text that does not spell a special token (which `transformers` reads
    as that token) or U+2581. A unigram model's may differ where two ways of splitting score alike
    to float32's last bits, as SentencePiece adds them up: about one token in ten thousand.

    Args:
      tokenizer: of a model.
      folder: exists.
      frames: what the model was trained to see around one text, and around two; None for what the
        tokenizer has.
      max_len: the most tokens that the model reads; None where it has no such bound.
      num_types: of token types that the model knows.
      cut_to: the most that the model was trained to read, with special tokens.
      has_pad: whether texts may be padded; otherwise no token is named for it.

    Raises:
      UserError: a SentencePiece model whose pieces `tokenizers` cannot express.
    """
    config = {"clean_up_tokenization_spaces": False}
    match tokenizer:
        case HuggingFaceTokenizer():
            files = tokenizer.files
            library = tokenizers.Tokenizer.from_str(files[TOKENIZER].decode())
            config = json.loads(files.get(CONFIG, b"{}")) | config
        case ByteTokenizer():
            library = _from_bytes(list(tokenizer.special_ids))
        case SentencePieceTokenizer():
            library = _from_sentencepiece(tokenizer)
    if not all(name in config for name in NAMES):  # Else tokenizer_config.json names all.
        config |= _names(tokenizer, library)
    if frames is not None:
        if [frame_of(library, num_texts) for num_texts in (1, 2)] != list(frames):
            library.post_processor = _post_processor(library, frames)
        start, end = frames[0].special_ids
        if start and end:  # As encoders of texts have them.
            for name, token_id in {"cls_token": start[0], "sep_token": end[-1]}.items():
                if config[name] is None:
                    config[name] = library.id_to_token(token_id)
    if not has_pad:
        config["pad_token"] = None
        library.no_padding()
    library.save(str(folder / TOKENIZER))
    inputs = ["input_ids", *["token_type_ids"] * (num_types > 1), "attention_mask"]
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": inputs}
    if max_len is not None:
        config.setdefault("model_max_length", max_len)
    if cut_to is not None:
        config["model_max_length"] = cut_to
    atomic_files.write(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def normalizes(tokenizer: Tokenizer) -> bool:
    """Tells whether it changes characters, which the exported one does alike but for some marks."""
    # Those that stand on a letter with which no single character is made, in an order of their own.
    if not isinstance(tokenizer, SentencePieceTokenizer):
        return False
    proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)
    return bool(proto.normalizer_spec.precompiled_charsmap)


def is_read_back(folder: pathlib.Path) -> bool:
    """Tells whether AutoTokenizer takes tokenizer.json as it stands."""
    # For some values of `model_type` in config.json it takes a class of its own, whatever
    # tokenizer_config.json names.
    return tokenizer_folder.read(folder)[TOKENIZER] == (folder / TOKENIZER).read_bytes()


def _names(tokenizer: Tokenizer, library: tokenizers.Tokenizer) -> dict[str, str | None]:
    ids = {name: getattr(tokenizer, f"{name}_id") for name in ("pad", "bos", "eos", "mask", "unk")}
    found = {f"{name}_token": library.id_to_token(i) for name, i in ids.items() if i is not None}
    return dict.fromkeys(NAMES) | found


def _post_processor(library: tokenizers.Tokenizer, frames: tuple[Frame, Frame]):
    """Makes one that puts these frames around texts; offsets leave spaces out."""
    used: dict[str, int] = {}  # Special tokens by the names that the templates give them.

    def name_of(token_id: int) -> str:
        text = library.id_to_token(token_id)
        plain = re.fullmatch(r"[^\s:$]+", text)  # Others have a meaning in a template.
        name = text if plain else f"special_{token_id}"
        used[name] = token_id
        return name

    def template(frame: Frame) -> list[str]:
        parts = []  # Each with its token type: [CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1.
        texts = [f"{name}:{t}" for name, t in zip(("$A", "$B"), frame.text_types, strict=False)]
        for ids, types in zip(frame.special_ids, frame.special_types, strict=True):
            parts += [f"{name_of(i)}:{t}" for i, t in zip(ids, types, strict=True)]
            parts += [texts.pop(0)] if texts else []  # Tokens stand before, between and behind.
        return parts

    single, pair = map(template, frames)
    special = [
        {"id": name, "ids": [i], "tokens": [library.id_to_token(i)]} for name, i in used.items()
    ]
    made = processors.TemplateProcessing(single, pair, special)
    if isinstance(library.decoder, decoders.ByteLevel):
        return processors.Sequence([processors.ByteLevel(trim_offsets=True), made])
    return made


def _from_bytes(special: list[str]) -> tokenizers.Tokenizer:
    """Makes a BPE without merges, whose only pieces are the bytes that it falls back to."""
    vocabulary = {piece: i for i, piece in enumerate([*special, *_BYTES])}
    library = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    library.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    library.add_special_tokens([_special(piece) for piece in special])
    return library


def _from_sentencepiece(tokenizer: SentencePieceTokenizer) -> tokenizers.Tokenizer:
    proto = sentencepiece_proto.ModelProto.FromString(tokenizer.model)
    library = sentencepiece_files.build(proto, {}, legacy=True)
    if normalizes(tokenizer):
        library.normalizer = normalizers.Sequence(_normalizers(proto.normalizer_spec))
    names = dict.fromkeys([*tokenizer.special_ids, *tokenizer.named_tokens.values()])
    library.add_special_tokens(list(map(_special, names)))  # Also the mask, which is no control.
    return library


def _normalizers(spec: Any) -> list[Any]:
    """Makes SentencePiece's normalizers such that `Precompiled` drops no marks."""
    steps = sentencepiece_files.normalizers_of(spec, legacy=True)
    if spec.name not in ("nfkc", "nmt_nfkc"):
        return steps
    # `Precompiled` looks up a letter and its marks together, and leaves out marks that have no
    # entry. NFKC before it makes one character of them wherever there is one.
    if spec.name == "nfkc":
        return [normalizers.NFKC(), *steps]
    # The one character that nmt_nfkc keeps and NFKC does not.
    tilde, stand_in = "\uff5e", "\U0010fffd"
    put, take = normalizers.Replace(tilde, stand_in), normalizers.Replace(stand_in, tilde)
    return [put, normalizers.NFKC(), steps[0], take, *steps[1:]]


def _special(piece: str) -> tokenizers.AddedToken:
    # Looked for as it is spelled, before the text is normalized.
    return tokenizers.AddedToken(piece, special=True, normalized=False)
