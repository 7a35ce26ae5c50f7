"""Opens tokenizers that can take more pieces: which runs of their tokens may become one."""

import functools
import itertools
import json
import unicodedata
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from typing import Any, Protocol

import sentencepiece
import tokenizers

from lm.errors import UserError
from lm.tokenizers.hugging_face_tokenizer import HuggingFaceTokenizer
from lm.tokenizers.piece_choice import Run, Unit
from lm.tokenizers.pieces import SPACE_MARK, byte_of
from lm.tokenizers.sentencepiece_proto import BPE, BYTE, NORMAL, UNIGRAM, ModelProto
from lm.tokenizers.tokenizer_folder import TOKENIZER
from lm.tokenizers.tokenizers import SentencePieceTokenizer, Tokenizer
from lm.tokenizers.vocabulary import is_chinese


class Extensible(Protocol):
    """Says what a tokenizer needs to be extended."""

    known: Container[str]  # Pieces that it has.
    reserved: Container[str]  # What is no text: no piece may be spelled like it.

    def words_of(self, text: str) -> Iterator[Run]:
        """Cuts a text into runs of tokens within which pieces may be joined."""

    def cost(self, character: str) -> int:
        """Counts the tokens of a character that has none of its own."""

    def old_ids(self, run: Run) -> tuple[int, ...]:
        """Returns the tokens of a run."""

    def spell(self, run: Run) -> str:
        """Returns the piece that a run would be."""

    def extended(
        self, pieces: list[str], log_probs: list[float], merges: list[tuple[str, str]]
    ) -> Tokenizer:
        """Makes the tokenizer with these pieces; of the other two it takes what it needs."""


class _Pieces:
    """What all kinds share: pieces by id, and characters that are spelled in bytes or unknown."""

    prefix = ""  # Of pieces that go on with a word.

    def __init__(
        self,
        names: Sequence[str | None],
        unk_id: int | None,
        byte_ids: dict[int, int],
        reserved: Container[str],
    ):
        # names: None for what takes part in no piece. byte_ids: by byte; {} without such tokens.
        self._names, self._unk_id, self._byte_ids = names, unk_id, byte_ids
        self.reserved = reserved
        self._bytes = {token_id: byte for byte, token_id in byte_ids.items()}
        self.known = {name: i for i, name in enumerate(names) if name is not None}

    def cost(self, character):
        # What is unknown is lost, which is no better than to take the tokens of its bytes.
        return len(character.removeprefix(self.prefix).encode())

    def old_ids(self, run):
        ids: list[int] = []
        for unit in run:
            if isinstance(unit, int):
                ids.append(unit)
            elif self._byte_ids:
                ids += map(self._byte_ids.__getitem__, unit.encode())
            else:
                ids.append(self._unk_id)
        return tuple(ids)

    def spell(self, run):
        first, *rest = (u if isinstance(u, str) else self._names[u] for u in run)
        return first + "".join(name.removeprefix(self.prefix) for name in rest)

    def units_of(
        self, tokens: Iterable[tuple[int, int]], surface: Callable[[int], Iterator[Unit | None]]
    ) -> Iterator[Unit | None]:
        """Yields the units of tokens, each with its place; None where no piece may go on.

        `surface`: the place of an unknown token -> the characters that it stands for.
        """
        held = b""
        for place, token_id in tokens:
            if token_id in self._bytes:
                held += bytes([self._bytes[token_id]])
                try:
                    character = held.decode()
                except UnicodeDecodeError:  # It is not whole yet.
                    continue
                # A mark in the text is no space, for which the piece would stand.
                yield None if character == SPACE_MARK else character
                held = b""
            elif token_id == self._unk_id:
                yield from surface(place)
            else:
                yield None if self._names[token_id] is None else token_id

    def cut(self, units: Iterator[Unit | None]) -> Iterator[Run]:
        """Cuts where a piece of SentencePiece ends: before spaces, and between kinds of letters."""
        word: list[Unit] = []
        last = ""
        for unit in units:
            name = "" if unit is None else self.spell((unit,))
            if word and (unit is None or _parts(last, name)):
                yield tuple(word)
                word = []
            if unit is not None:
                word.append(unit)
                last = name
        if word:
            yield tuple(word)


def _parts(left: str, right: str) -> bool:
    """Whether no piece has both, the end of one and the start of the other."""
    if right.startswith(SPACE_MARK):
        return True
    return left != SPACE_MARK and _kind(left[-1]) != _kind(right[0])


@functools.cache
def _kind(character: str) -> str:
    if is_chinese(character):
        return "Chinese"
    kind = unicodedata.category(character)[0]
    return "letter" if kind in "LM" else "number" if kind == "N" else "other"


class SentencePiece(_Pieces):
    """A SentencePiece model, bpe or unigram.

    Raises UserError for one of words or characters.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self._tokenizer = tokenizer
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
        proto = self._proto = ModelProto.FromString(tokenizer.model)
        if proto.trainer_spec.model_type not in (UNIGRAM, BPE):
            raise UserError("only bpe and unigram models of SentencePiece can be extended")
        super().__init__(
            [p.piece if p.type == NORMAL else None for p in proto.pieces],
            tokenizer.unk_id,
            {byte_of(p.piece)[0]: i for i, p in enumerate(proto.pieces) if p.type == BYTE},
            {p.piece for p in proto.pieces if p.type != NORMAL},
        )

    def words_of(self, text):
        ids, starts, ends = self._tokenizer.encode_batch([text])[0].tolist(), [], []
        if self._unk_id in ids:
            ids, starts, ends = (x.tolist() for x in self._tokenizer.encode_with_offsets(text))
        surface = lambda place: self._unknown(text[starts[place] : ends[place]])
        return self.cut(self.units_of(enumerate(ids), surface))

    def _unknown(self, text: str) -> Iterator[Unit]:
        return iter(self._processor.normalize(text).replace(SPACE_MARK, ""))

    def extended(self, pieces, log_probs, merges):
        proto = ModelProto.FromString(self._tokenizer.model)
        lowest = min(p.score for p in proto.pieces if p.type == NORMAL)
        scores = _below(lowest, log_probs)
        if proto.trainer_spec.model_type == BPE:  # Ranks, which count down.
            scores = [lowest - 1 - i for i in range(len(pieces))]
        for piece, score in zip(pieces, scores, strict=True):
            proto.pieces.add(piece=piece, score=score, type=NORMAL)
        proto.trainer_spec.vocab_size = len(proto.pieces)
        return SentencePieceTokenizer(proto.SerializeToString())


def _below(lowest: float, log_probs: Sequence[float]) -> list[float]:
    """Shifts log-probabilities so that the largest is below what there is."""
    shift = lowest - max(log_probs) - 0.01
    return [log_prob + shift for log_prob in log_probs]


def of_hugging_face(tokenizer: HuggingFaceTokenizer) -> "HuggingFace":
    """Opens a tokenizer.json.

    Raises:
      UserError: its model takes no new pieces.
    """
    # As the library writes it, whatever the version of the file.
    library = tokenizers.Tokenizer.from_str(tokenizer.files[TOKENIZER].decode())
    parts = json.loads(library.to_str())
    kind = parts["model"]["type"]
    marks = ("continuing_subword_prefix", "end_of_word_suffix")
    if kind == "BPE" and (named := [key for key in marks if parts["model"].get(key)]):
        raise UserError(f"a BPE with {named[0]} cannot be extended; byte-level ones can")
    if kind not in ("BPE", "Unigram", "WordPiece"):
        raise UserError(f"a {kind} cannot be extended; BPE, Unigram and WordPiece can")
    return (WordPiece if kind == "WordPiece" else HuggingFace)(tokenizer, parts)


class HuggingFace(_Pieces):
    """A BPE or Unigram of `tokenizers`."""

    def __init__(self, tokenizer: HuggingFaceTokenizer, parts: dict[str, Any]):
        self._tokenizer, self._parts, model = tokenizer, parts, parts["model"]
        self._library = tokenizers.Tokenizer.from_str(tokenizer.tokenizer_json)
        self._library.encode_special_tokens = True
        names: list[str | None] = [None] * tokenizer.vocab_size
        for name, token_id in self._library.get_vocab(with_added_tokens=False).items():
            names[token_id] = name
        added = self._library.get_added_tokens_decoder()
        named = {token.content: i for i, token in added.items()}
        if isinstance(model["vocab"], list) and len(model["vocab"]) != tokenizer.vocab_size:
            raise UserError(
                "the tokenizer has tokens outside of its Unigram, whose pieces are numbered by "
                "their place, so that new ones would take their ids; put them into its vocabulary"
            )
        if isinstance(model["vocab"], dict):  # Else the ids of these would follow the new pieces.
            model["vocab"] |= named
        byte_ids = {}
        if model.get("byte_fallback"):
            byte_ids = {b[0]: i for i, name in enumerate(names) if name and (b := byte_of(name))}
        others = {*added, *byte_ids.values(), tokenizer.unk_id} - {None}
        reserved = {self._library.id_to_token(i) for i in others}
        names = [None if i in others else name for i, name in enumerate(names)]
        super().__init__(names, tokenizer.unk_id, byte_ids, reserved)
        # What splits text into words before them says where pieces end; else SentencePiece's rules.
        self._has_words = "ByteLevel" in json.dumps(parts.get("pre_tokenizer"))

    def words_of(self, text):
        encoding = self._library.encode(text, add_special_tokens=False)
        ids, words, offsets = encoding.ids, encoding.word_ids, encoding.offsets
        surface = lambda place: self._unknown(text, *offsets[place])
        for _, word in itertools.groupby(enumerate(ids), key=lambda item: words[item[0]]):
            units = self.units_of(word, surface)
            yield from self.whole(units) if self._has_words else self.cut(units)

    def whole(self, units: Iterator[Unit | None]) -> Iterator[Run]:
        """Cuts nowhere but where it must."""
        word: list[Unit] = []
        for unit in [*units, None]:
            if unit is not None:
                word.append(unit)
            elif word:
                yield tuple(word)
                word = []

    def _unknown(self, text: str, start: int, end: int) -> Iterator[Unit]:
        text = text[start:end]
        if self._library.normalizer is not None:
            text = self._library.normalizer.normalize_str(text)
        return iter(text.replace(SPACE_MARK, "").replace(" ", ""))

    def extended(self, pieces, log_probs, merges):
        model = self._parts["model"]
        if isinstance(model["vocab"], list):
            lowest = min(score for _, score in model["vocab"])
            model["vocab"] += zip(pieces, _below(lowest, log_probs), strict=True)
        else:
            model["vocab"] |= {
                piece: self._tokenizer.vocab_size + i for i, piece in enumerate(pieces)
            }
        if "merges" in model:
            model["merges"] += merges
        contents = json.dumps(self._parts, ensure_ascii=False).encode()
        return self._tokenizer.with_tokenizer_json(contents)


class WordPiece(HuggingFace):
    """A WordPiece, which knows a word in whole or not at all."""

    def __init__(self, tokenizer: HuggingFaceTokenizer, parts: dict[str, Any]):
        super().__init__(tokenizer, parts)
        self.prefix = parts["model"]["continuing_subword_prefix"]
        self._max_chars = parts["model"]["max_input_chars_per_word"]
        self._has_words = True

    def _unknown(self, text, start, end):
        characters = [*super()._unknown(text, start, end)]
        if len(characters) > self._max_chars:
            return iter([None])
        names = [*characters[:1], *(self.prefix + character for character in characters[1:])]
        return iter([self.known.get(name, name) for name in names])
