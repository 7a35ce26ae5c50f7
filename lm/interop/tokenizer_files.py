"""Our tokenizers as files that `transformers.AutoTokenizer` loads, with the same ids.

SentencePiece models and bytes become a `tokenizer.json`; one that was a `tokenizer.json` is copied.
"""

import json
import pathlib

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import decoders, models, normalizers

from lm.data.tokenizers import (
    ByteTokenizer,
    HuggingFaceTokenizer,
    SentencePieceTokenizer,
    Tokenizer,
)
from lm.errors import UserError

_SPACE_MARK = "\u2581"
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def save(tokenizer: Tokenizer, folder: pathlib.Path, max_len: int | None) -> None:
    """Writes tokenizer.json and tokenizer_config.json.

    Ids are the same for every text that does not spell a special token (which `transformers` reads
    as that token) or U+2581. A unigram model's may differ where two ways of splitting score alike
    to float32's last bits, as SentencePiece adds them up: about one token in ten thousand.

    Raises:
      UserError: a SentencePiece model whose pieces `tokenizers` cannot express.
    """
    match tokenizer:
        case HuggingFaceTokenizer():
            tokenizer.save(folder)
            (folder / "kind.txt").unlink()
            return
        case ByteTokenizer():
            specials = ["<pad>", "<s>", "</s>", None]
            converted = _from_bytes(specials[:3])
        case SentencePieceTokenizer():
            processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
            proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)
            if proto.normalizer_spec.name != "identity" or proto.normalizer_spec.add_dummy_prefix:
                raise UserError(
                    "this SentencePiece model normalises its text, which is not exported; train "
                    "one with identity normalisation and without a dummy prefix"
                )
            is_bpe = proto.trainer_spec.model_type == proto.trainer_spec.BPE
            converted = _from_sentencepiece(processor, is_bpe=is_bpe)
            ids = (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.mask_id)
            specials = [None if i is None else processor.id_to_piece(i) for i in ids]
    converted.save(str(folder / "tokenizer.json"))
    names = zip(("pad_token", "bos_token", "eos_token", "mask_token"), specials, strict=True)
    config = {name: piece for name, piece in names if piece is not None} | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({} if max_len is None else {"model_max_length": max_len}),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _from_bytes(specials: list[str]) -> tokenizers.Tokenizer:
    """A BPE without merges, whose only pieces are the bytes that it falls back to."""
    vocabulary = {piece: i for i, piece in enumerate([*specials, *_BYTES])}
    converted = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    converted.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    converted.add_special_tokens([_special(piece) for piece in specials])
    return converted


def _from_sentencepiece(processor, *, is_bpe: bool) -> tokenizers.Tokenizer:
    pieces = [processor.id_to_piece(i) for i in range(processor.get_piece_size())]
    kinds = range(len(pieces))
    specials = [pieces[i] for i in kinds if processor.is_control(i) or processor.is_unknown(i)]
    ordinary = {
        i
        for i in kinds
        if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
    }
    unk = pieces[processor.unk_id()]
    scores = [processor.get_score(i) for i in kinds]
    if is_bpe:
        model = models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            _merges(pieces, scores, ordinary),
            unk_token=unk,
            fuse_unk=True,
            byte_fallback=True,
        )
    else:
        model = models.Unigram(list(zip(pieces, scores, strict=True)), processor.unk_id(), True)
    converted = tokenizers.Tokenizer(model)
    converted.normalizer = normalizers.Replace(" ", _SPACE_MARK)
    converted.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE_MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    converted.add_special_tokens([_special(piece) for piece in specials])
    return converted


def _merges(pieces, scores, ordinary) -> list[tuple[str, str]]:
    """SentencePiece merges whichever neighbours make the best piece: that order, spelled out."""
    known = {pieces[i]: i for i in ordinary}
    merges = []
    for i in sorted(ordinary, key=lambda i: -scores[i]):
        piece = pieces[i]
        splits = ((piece[:k], piece[k:]) for k in range(1, len(piece)))
        pairs = [(a, b) for a, b in splits if a in known and b in known]
        merges += sorted(pairs, key=lambda pair: (known[pair[0]], known[pair[1]]))
    return merges


def _special(piece: str) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(piece, special=True, normalized=False)
