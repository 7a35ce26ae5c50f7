"""Tokenizers: text to ids and back, whatever library stands behind them.

`decode` inverts `encode_batch` for bytes and SentencePiece on any Unicode text. Text that merely
looks like a special token stays text.
"""

import functools
import hashlib
import json
import pathlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np

from lm import manifest
from lm.data import framing, spaces, special_tokens, stop_ids
from lm.data import offsets as offsets_lib
from lm.data.offsets import Offsets, Range
from lm.errors import UserError


class Tokenizer(Protocol):
    """What every tokenizer can do. A special id is None where the tokenizer has no such token."""

    vocab_size: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    mask_id: int | None
    unk_id: int | None
    special_ids: Mapping[str, int]  # Of the special tokens, by their spelling.
    named_tokens: Mapping[str, str]  # {"eos_token": "</s>", ...}: what a chat template may write.
    prefix_ids: tuple[int, ...]  # What the tokenizer itself puts before a single text,
    suffix_ids: tuple[int, ...]  # and behind it; a tokenizer trained here, its bos and eos.
    stop_ids: tuple[int, ...]  # What ends a text: eos, and what a folder names besides.
    fingerprint: str

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32, without special tokens around them."""

    def encode_inside(self, texts: Sequence[str]) -> list[np.ndarray]:
        """As `encode_batch`, of texts inside a longer one: no space is added or taken away."""

    def encode_with_offsets(self, text: str) -> Offsets:
        """The ids that `encode_batch` gives, and which characters each of them stands for."""

    def encode_written(self, text: str, as_text: Sequence[Range] = ()) -> Offsets:
        """As `encode_with_offsets`, but special tokens count as such, except in these ranges."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text; special tokens leave nothing, bytes that are no UTF-8 become U+FFFD."""

    def piece(self, token_id: int) -> str:
        """One printable token, as people read it in a table."""

    def num_bytes(self, token_id: int) -> int:
        """How many UTF-8 bytes of text the token stands for."""

    def id_of(self, name: str) -> int | None:
        """The id of a token by its name, such as "<extra_id_0>"."""

    def is_special(self, token_id: int) -> bool:
        """Whether the token is no text."""

    def text_of(self, token_id: int) -> str:
        """The text of a token; U+FFFD for a part of a character."""

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files that `load` reads."""


class ByteTokenizer:
    """Pad 0, bos 1, eos 2, then the 256 bytes of UTF-8."""

    vocab_size = 259
    pad_id, bos_id, eos_id, mask_id, unk_id = 0, 1, 2, None, None
    prefix_ids, suffix_ids = (1,), (2,)
    stop_ids = (2,)
    special_ids: ClassVar = {"<pad>": 0, "<s>": 1, "</s>": 2}
    named_tokens: ClassVar = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    fingerprint = "bytes"

    def encode_batch(self, texts):
        return [
            np.frombuffer(text.encode(), np.uint8).astype(np.int32) + np.int32(3) for text in texts
        ]

    encode_inside = encode_batch

    def encode_with_offsets(self, text):
        ranges = [(i, i + 1) for i in offsets_lib.characters_of_bytes(text)]
        return offsets_lib.from_ranges(self.encode_batch([text])[0], ranges)

    def encode_written(self, text, as_text=()):
        encode = self.encode_with_offsets
        return special_tokens.encode_split(text, as_text, self.special_ids, encode)

    def decode(self, ids):
        return bytes(i - 3 for i in map(int, ids) if i >= 3).decode(errors="replace")

    def piece(self, token_id):
        special = list(self.special_ids)
        return special[token_id] if token_id < 3 else printable(bytes([token_id - 3]))

    def num_bytes(self, token_id):
        return int(token_id >= 3)

    def id_of(self, name):
        return None

    def is_special(self, token_id):
        return token_id < 3

    def text_of(self, token_id):
        return bytes([token_id - 3]).decode(errors="replace") if token_id >= 3 else ""

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _KIND).write_text("bytes\n")


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018)."""

    def __init__(self, model: bytes):
        import sentencepiece

        self.model = model
        if not model:  # The library would take it, and have no pieces.
            raise RuntimeError("the model is empty")
        self._processor = processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.vocab_size = processor.get_piece_size()
        self.pad_id, self.bos_id, self.eos_id = (
            None if i < 0 else i
            for i in (processor.pad_id(), processor.bos_id(), processor.eos_id())
        )
        self.unk_id = processor.unk_id()
        self.prefix_ids = () if self.bos_id is None else (self.bos_id,)
        self.suffix_ids = () if self.eos_id is None else (self.eos_id,)
        self.stop_ids = () if self.eos_id is None else (self.eos_id,)
        self.mask_id = _first(map(self.id_of, _MASK_NAMES))
        special = filter(self.is_special, range(self.vocab_size))
        self.special_ids = {processor.id_to_piece(i): i for i in special}
        self.named_tokens = special_tokens.named(self, processor.id_to_piece)
        self.fingerprint = f"sentencepiece {hashlib.sha256(model).hexdigest()}"

    def encode_batch(self, texts):
        # One thread: preparation runs one process a core.
        encoded = self._processor.encode(list(texts), num_threads=1)
        for index, text in enumerate(texts):
            if _SPACE_MARK in text:
                encoded[index] = self.encode_with_offsets(text).ids
        return [np.asarray(ids, np.int32) for ids in encoded]

    def encode_inside(self, texts):
        return self._inside.encode_batch(texts)

    @functools.cached_property
    def _inside(self):
        return SentencePieceTokenizer(spaces.keep_sentencepiece(self.model))

    def encode_with_offsets(self, text):
        # SentencePiece spells a space as U+2581; one in the text must not come back as a space.
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in _SPACE_MARK.encode()]
        if self.unk_id in mark:  # No byte fallback: the model cannot say it at all.
            mark = [self.unk_id]
        serialize = functools.partial(self._processor.encode, out_type="serialized_proto")
        return offsets_lib.from_sentencepiece(text, serialize, mark)

    def encode_written(self, text, as_text=()):
        encode = self.encode_with_offsets
        return special_tokens.encode_split(text, as_text, self.special_ids, encode)

    def decode(self, ids):
        return self._processor.decode([int(i) for i in ids])

    def piece(self, token_id):
        piece = self._processor.id_to_piece(int(token_id))
        if self._processor.is_byte(int(token_id)):
            return printable(bytes([int(piece[3:-1], 16)]))
        if self._processor.is_control(int(token_id)):
            return piece
        return printable(piece.replace(_SPACE_MARK, " ").encode())

    def num_bytes(self, token_id):
        token_id = int(token_id)
        if self._processor.is_control(token_id):
            return 0
        if self._processor.is_byte(token_id):
            return 1
        return len(self._processor.id_to_piece(token_id).replace(_SPACE_MARK, " ").encode())

    def id_of(self, name):
        token_id = self._processor.piece_to_id(name)
        return None if token_id == self.unk_id else token_id

    def is_special(self, token_id):
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        return any(is_kind(int(token_id)) for is_kind in kinds)

    def text_of(self, token_id):
        piece = self._processor.id_to_piece(int(token_id))
        if self._processor.is_byte(int(token_id)):
            return bytes([int(piece[3:-1], 16)]).decode(errors="replace")
        return piece.replace(_SPACE_MARK, " ")

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MODEL).write_bytes(self.model)
        (folder / _KIND).write_text("sentencepiece\n")


class HuggingFaceTokenizer:
    """A `tokenizer.json` of the `tokenizers` library, with its special tokens found by name.

    The names come from the files that `transformers` writes beside it, or else from a list of usual
    ones. Text that spells a special token is encoded as text, which is not so in `transformers`.
    """

    def __init__(self, files: dict[str, bytes]):
        import tokenizers

        self._files = files
        self._tokenizer = tokenizers.Tokenizer.from_str(files[_TOKENIZER_JSON].decode())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.prefix_ids, self.suffix_ids = framing.frame_of(self._tokenizer, 1).special_ids
        self._tokenizer.post_processor = None  # Special tokens are ours; it would trim offsets.
        self._tokenizer.encode_special_tokens = True  # That is: as text.
        # Ids may have gaps, so that there are fewer tokens than the largest id says.
        self.vocab_size = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        self.pad_id, self.bos_id, self.eos_id, self.mask_id = (
            self._find(f"{name}_token", usual) for name, usual in _USUAL_NAMES.items()
        )
        parts = json.loads(files[_TOKENIZER_JSON])
        self._is_byte_level = "ByteLevel" in json.dumps(parts.get("decoder"))
        self._continuing_prefix = parts["model"].get("continuing_subword_prefix")
        unk = parts["model"].get("unk_token") or ""  # Unigram gives the id, the others a name.
        self.unk_id = parts["model"].get("unk_id", self._tokenizer.token_to_id(unk))
        self._special = {
            i for i, token in self._tokenizer.get_added_tokens_decoder().items() if token.special
        }
        named = stop_ids.parse(files.get(stop_ids.FILE, b"{}"))
        known = range(self.vocab_size)
        self.stop_ids = tuple(dict.fromkeys(i for i in (self.eos_id, *named) if i in known))
        about_text = sorted(files.keys() - {stop_ids.FILE})
        digest = hashlib.sha256(b"".join(files[name] for name in about_text)).hexdigest()
        self.special_ids = {self._tokenizer.id_to_token(i): i for i in sorted(self._special)}
        beside = [json.loads(files.get(name, b"{}")) for name in _BESIDE]
        self.named_tokens = special_tokens.named(self, self._tokenizer.id_to_token, beside)
        self.fingerprint = f"tokenizer.json {digest}"

    def _find(self, key: str, usual: tuple[str, ...]) -> int | None:
        names = list(usual)
        for file in _BESIDE:
            token = json.loads(self._files.get(file, b"{}")).get(key)
            if token is not None:  # A string, or an AddedToken as a dict.
                names.insert(0, token["content"] if isinstance(token, dict) else token)
        return _first(map(self._tokenizer.token_to_id, names))

    @property
    def tokenizer_json(self) -> str:
        """As `tokenizers` itself writes it, without the spellings of older versions."""
        return self._tokenizer.to_str()

    def encode_batch(self, texts):
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def encode_inside(self, texts):
        return self._inside.encode_batch(texts)

    @functools.cached_property
    def _inside(self):
        inside = spaces.keep_hugging_face(self.tokenizer_json)
        return HuggingFaceTokenizer(self._files | {_TOKENIZER_JSON: inside})

    def encode_with_offsets(self, text):
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return offsets_lib.from_hugging_face(text, encoding.ids, encoding.tokens, encoding.offsets)

    def encode_written(self, text, as_text=()):
        return self._written.encode(text, as_text)

    @functools.cached_property
    def _written(self):
        return special_tokens.SplitAtSpecialTokens(self._tokenizer)

    def decode(self, ids):
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

    def piece(self, token_id):
        if int(token_id) in self._special:
            return self._tokenizer.id_to_token(int(token_id))
        return printable(self._tokenizer.decode([int(token_id)]).encode())

    def num_bytes(self, token_id):
        if int(token_id) in self._special:
            return 0
        if self._is_byte_level:  # One character of the vocabulary is one byte of text.
            return len(self._tokenizer.id_to_token(int(token_id)))
        return len(self._tokenizer.decode([int(token_id)]).encode())

    def id_of(self, name):
        return self._tokenizer.token_to_id(name)

    def is_special(self, token_id):
        # Ids may have gaps, which are no text either.
        return token_id in self._special or self._tokenizer.id_to_token(int(token_id)) is None

    def text_of(self, token_id):
        token = self._tokenizer.id_to_token(int(token_id)) or ""
        if self._is_byte_level:
            return self._tokenizer.decode([int(token_id)], skip_special_tokens=False)
        if self._continuing_prefix:  # WordPiece: what does not continue a word follows a space.
            inside = token.startswith(self._continuing_prefix)
            return token.removeprefix(self._continuing_prefix) if inside else " " + token
        if re.fullmatch("<0x[0-9A-F]{2}>", token):
            return bytes([int(token[3:-1], 16)]).decode(errors="replace")
        return token.replace(_SPACE_MARK, " ")

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in self._files.items():
            (folder / name).write_bytes(contents)
        (folder / _KIND).write_text("file\n")


NEWLINE_MARK = "⏎"
_SPACE_MARK = "\u2581"
_KIND = "kind.txt"
_MODEL = "sentencepiece.model"
_TOKENIZER_JSON = "tokenizer.json"
_BESIDE = ("special_tokens_map.json", "tokenizer_config.json")  # The latter has the last word.
_MASK_NAMES = ("<mask>", "[MASK]")
_USUAL_NAMES = {
    "pad": ("<pad>", "[PAD]", "<|pad|>", "<|padding|>", "<|finetune_right_pad_id|>"),
    "bos": ("<s>", "<bos>", "<|begin_of_text|>", "<|startoftext|>", "[CLS]", "<|endoftext|>"),
    "eos": ("</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>", "[SEP]"),
    "mask": _MASK_NAMES,
}


def _first(ids: Iterable[int | None]) -> int | None:
    """The first that is there."""
    return next((i for i in ids if i is not None), None)


def printable(data: bytes) -> str:
    r"""Text as it reads in a table: b"a\n" is "a⏎", and a byte that is no UTF-8 alone is "\xNN"."""
    text = data.decode(errors="backslashreplace").replace("\n", NEWLINE_MARK).replace("\t", "⇥")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def load(folder: str | pathlib.Path) -> Tokenizer:
    """Reads what `save` wrote.

    Raises:
      UserError: the folder holds no tokenizer, or its files are not as they were written.
    """
    folder = pathlib.Path(folder)
    try:
        if (folder / manifest.NAME).exists() and (problem := manifest.problem(folder)):
            raise ValueError(problem)
        return _load(folder)
    except UserError:
        raise
    except (ValueError, RuntimeError, FileNotFoundError, IsADirectoryError) as error:
        raise UserError(
            f"the tokenizer in {folder} is damaged ({error}); restore it (the command of the run "
            f"writes it again), or remove {manifest.NAME} there where it was changed on purpose"
        ) from None


def _load(folder: pathlib.Path) -> Tokenizer:
    if not (folder / _KIND).is_file():
        raise UserError(
            f"{folder} holds no tokenizer: {_KIND} is missing; give the folder of a run"
        )
    match (folder / _KIND).read_text().strip():
        case "bytes":
            return ByteTokenizer()
        case "sentencepiece":
            return SentencePieceTokenizer((folder / _MODEL).read_bytes())
        case "file":
            return load_file(folder / _TOKENIZER_JSON)
        case kind:
            raise UserError(f"{folder / _KIND} says {kind!r}, which is unknown; restore the folder")


def load_file(path: str | pathlib.Path) -> Tokenizer:
    """Reads a `tokenizer.json` with its companions, or a SentencePiece model.

    Raises:
      UserError: there is no such file, or it is neither.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise UserError(
            f"tokenizer.path={str(path)!r} is no file; give a tokenizer.json or a .model"
        )
    if path.suffix != ".json":
        try:
            return SentencePieceTokenizer(path.read_bytes())
        except RuntimeError:
            raise UserError(f"tokenizer.path={str(path)!r} is no SentencePiece model") from None
    beside = [path.parent / name for name in _BESIDE]
    files = {other.name: other.read_bytes() for other in beside if other.is_file()}
    files |= stop_ids.read(path.parent)
    try:
        return HuggingFaceTokenizer({_TOKENIZER_JSON: path.read_bytes()} | files)
    except UserError as error:
        raise UserError(f"{path.parent}: {error}") from None
    except Exception as error:  # `tokenizers` raises nothing narrower.
        raise UserError(f"tokenizer.path={str(path)!r} is no tokenizer.json: {error}") from None
