"""Reads SentencePiece models, and makes tokenizers of the `tokenizers` library of them."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

import sentencepiece
import tokenizers
from google.protobuf.message import DecodeError
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from lm.errors import UserError
from lm.tokenizers.pieces import SPACE_MARK
from lm.tokenizers.sentencepiece_proto import (
    BPE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    USER_DEFINED,
    ModelProto,
)
from lm.tokenizers.tokenizer_classes import Vocabulary


def parse(path: pathlib.Path) -> Any:
    """Returns the ModelProto of a file.

    Raises:
      UserError: it holds something else.
    """
    contents = path.read_bytes()
    if not is_model(contents):
        raise UserError(f"{path} is no SentencePiece model; restore the file")
    return ModelProto.FromString(contents)


def is_model(contents: bytes) -> bool:
    """Whether SentencePiece can read it, and it has pieces: nothing at all would be read, too."""
    try:
        sentencepiece.SentencePieceProcessor(model_proto=contents)
        return bool(ModelProto.FromString(contents).pieces)
    except (RuntimeError, DecodeError):
        return False


def keep_spaces(model: bytes) -> bytes:
    """Returns the same model, which neither adds nor removes spaces around a text."""
    proto = ModelProto.FromString(model)
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    return proto.SerializeToString()


def vocabulary(proto: Any, model: str) -> Vocabulary:
    """Returns a model's pieces, for a class of `transformers` whose vocabulary is a `model`."""
    special = [
        AddedToken(piece.piece, normalized=False, special=piece.type == CONTROL)
        for piece in proto.pieces
        if piece.type in (CONTROL, USER_DEFINED)
    ]
    if model == "Unigram":
        pieces = [(piece.piece, piece.score) for piece in proto.pieces]
        charsmap = proto.normalizer_spec.precompiled_charsmap or None
        return Vocabulary(pieces, None, charsmap, special)
    pieces = {piece.piece: i for i, piece in enumerate(proto.pieces)}
    return Vocabulary(pieces, _merges(pieces), None, special)


def _merges(ranks: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists the pairs of pieces that join to a piece, in the order of that piece's rank."""
    # A .model holds no merges: each way to cut a piece into two pieces counts as one.
    splits = ((p[:k], p[k:]) for p in sorted(ranks, key=ranks.get) for k in range(1, len(p)))
    return [(left, right) for left, right in splits if left in ranks and right in ranks]


def build(proto: Any, names: dict[int, str], *, legacy: bool) -> tokenizers.Tokenizer:
    """Makes what the model itself asks for: its pieces, normalisation and rules for spaces.

    Args:
      proto: see `parse`.
      names: of pieces by id, where they are not the model's.
      legacy: whether a space is put before the text behind every added token, or before all of it.

    Raises:
      UserError: it is no unigram and no BPE.
    """
    spec, trainer = proto.normalizer_spec, proto.trainer_spec
    pieces = [names.get(i, piece.piece) for i, piece in enumerate(proto.pieces)]
    user_defined = [pieces[i] for i, p in enumerate(proto.pieces) if p.type == USER_DEFINED]
    if trainer.model_type == UNIGRAM:
        scored = [(name, p.score) for name, p in zip(pieces, proto.pieces, strict=True)]
        model = models.Unigram(scored, trainer.unk_id, trainer.byte_fallback)
    elif trainer.model_type == BPE:
        # Scores of a BPE count down in the order of merges; bytes and special pieces take no part.
        normal = {pieces[i]: (-p.score, i) for i, p in enumerate(proto.pieces) if p.type == NORMAL}
        model = models.BPE(
            {name: i for i, name in enumerate(pieces)},
            _merges(normal),
            unk_token=pieces[trainer.unk_id],
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
            ignore_merges=bool(user_defined),  # They are split off below, and no merge makes them.
        )
    else:
        raise UserError(
            "a SentencePiece model of words or characters has no equal in the tokenizers library; "
            "only unigram and BPE have"
        )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(normalizers_of(spec, legacy))
    steps = []
    if spec.add_dummy_prefix:
        scheme = "always" if legacy else "first"
        steps.append(pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False))
    if user_defined:
        pattern = "|".join(map(re.escape, sorted(user_defined, key=len, reverse=True)))
        steps.append(pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"))
    if steps:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    back = [decoders.Replace(SPACE_MARK, " ")]
    if trainer.byte_fallback:
        back.append(decoders.ByteFallback())
    if spec.add_dummy_prefix or trainer.byte_fallback:
        back.append(decoders.Fuse())  # One string, of whose start alone a space is taken.
    if spec.add_dummy_prefix:
        back.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(back)
    return tokenizer


def normalizers_of(spec: Any, legacy: bool) -> list[Any]:
    """Lists what a text goes through, in SentencePiece's order; see `build`."""
    steps = []
    if spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(spec.precompiled_charsmap))
    if spec.remove_extra_whitespaces:  # Spaces alone: line ends and tabs stay.
        steps.append(normalizers.Replace(tokenizers.Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(tokenizers.Regex(" {2,}"), " "))
    if spec.escape_whitespaces:
        steps.append(normalizers.Replace(" ", SPACE_MARK))
    if spec.add_dummy_prefix and legacy:
        # Metaspace puts no mark before one that is there; SentencePiece does.
        steps.append(normalizers.Replace(tokenizers.Regex(rf"\A{SPACE_MARK}"), SPACE_MARK * 2))
    return steps
