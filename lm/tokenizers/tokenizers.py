"""Turns text into ids and back, whatever library stands behind a tokenizer.

`decode` inverts `encode_batch` for bytes and SentencePiece on any Unicode text. Text that merely
looks like a special token stays text.
"""

import functools
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
import sentencepiece

from lm.errors import UserError
from lm.system import atomic_files, folder_files, manifest
from lm.tokenizers import (
    framing,
    hugging_face_tokenizer,
    sentencepiece_files,
    special_tokens,
    stop_ids,
    tokenizer_folder,
    word_cache,
)
from lm.tokenizers import offsets as offsets_lib
from lm.tokenizers.framing import Frame
from lm.tokenizers.hugging_face_tokenizer import HuggingFaceTokenizer
from lm.tokenizers.offsets import Offsets, Range
from lm.tokenizers.pieces import KIND, SPACE_MARK, first, printable


class Tokenizer(Protocol):
    """Says what every tokenizer can do. A special id is None where it has no such token."""

    vocab_size: int
    pad_id: int | None
    bos_id: int | None
    eos_id: int | None
    mask_id: int | None
    unk_id: int | None
    special_ids: Mapping[str, int]  # Of the special tokens that a text can spell, by spelling.
    named_tokens: Mapping[str, str]  # {"eos_token": "</s>", ...}: what a chat template may write.
    prefix_ids: tuple[int, ...]  # What the tokenizer itself puts before a single text,
    suffix_ids: tuple[int, ...]  # and behind it; a tokenizer trained here, its bos and eos.
    stop_ids: tuple[int, ...]  # What ends a text: eos, and what a folder names besides.
    fingerprint: str

    def frame(self, num_texts: int) -> Frame:
        """Says what stands around one text or two that a task reads."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Returns the ids of each text, int32, without special tokens around them."""

    def encode_inside(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Does as `encode_batch` for texts inside a longer one: adds and takes away no space."""

    def encode_with_offsets(self, text: str) -> Offsets:
        """Returns the ids that `encode_batch` gives, and the characters that each stands for."""

    def encode_written(self, text: str, as_text: Sequence[Range] = ()) -> Offsets:
        """Encodes a text in which special tokens count as such, except in these ranges."""

    def decode(self, ids: Sequence[int]) -> str:
        """Returns the text; special tokens leave nothing, bytes that are no UTF-8 become U+FFFD."""

    def piece(self, token_id: int) -> str:
        """Returns a token as people read it in a table."""

    def raw(self, token_id: int) -> bytes:
        """Returns the UTF-8 that a token of text adds to a text, its space included."""

    def num_bytes(self, token_id: int) -> int:
        """Counts the UTF-8 bytes of text that the token stands for."""

    def id_of(self, name: str) -> int | None:
        """Returns the id of a token by its name, such as "<extra_id_0>"."""

    def is_special(self, token_id: int) -> bool:
        """Whether the token is no text."""

    def text_of(self, token_id: int) -> str:
        """Returns the text of a token; U+FFFD for a part of a character."""

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

    def frame(self, num_texts):
        return framing.plain(self.bos_id, self.eos_id, num_texts)

    def encode_batch(self, texts):
        data = (np.frombuffer(text.encode(), np.uint8) for text in texts)
        return [bytes_L.astype(np.int32) + np.int32(3) for bytes_L in data]  # uint8 ends at 255.

    encode_inside = encode_batch

    def encode_with_offsets(self, text):
        ranges = [(i, i + 1) for i in offsets_lib.characters_of_bytes(text)]
        return offsets_lib.from_ranges(self.encode_batch([text])[0], ranges)

    def encode_written(self, text, as_text=()):
        return special_tokens.encode_split(self, text, as_text)

    def decode(self, ids):
        return bytes(i - 3 for i in map(int, ids) if i >= 3).decode(errors="replace")

    def piece(self, token_id):
        special = list(self.special_ids)
        return special[token_id] if token_id < 3 else printable(self.raw(token_id))

    def raw(self, token_id):
        return bytes([token_id - 3])

    def num_bytes(self, token_id):
        return int(token_id >= 3)

    def id_of(self, name):
        return None

    def is_special(self, token_id):
        return token_id < 3

    def text_of(self, token_id):
        return self.raw(token_id).decode(errors="replace") if token_id >= 3 else ""

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write(folder / KIND, "bytes\n")


class SentencePieceTokenizer:
    """A SentencePiece model (Kudo and Richardson 2018)."""

    def __init__(self, model: bytes):
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
        self.stop_ids = self.suffix_ids
        self.mask_id = first(map(self.id_of, _MASK_NAMES))
        special = filter(self.is_special, range(self.vocab_size))
        self.special_ids = {processor.id_to_piece(i): i for i in special}
        self.named_tokens = special_tokens.named(self, processor.id_to_piece)
        self.fingerprint = f"sentencepiece {hashlib.sha256(model).hexdigest()}"

    def frame(self, num_texts):
        return framing.plain(self.bos_id, self.eos_id, num_texts)

    def encode_batch(self, texts):
        texts = list(texts)
        if self._words is not None:
            encoded = self._words.encode_batch(texts)
        else:
            encoded = [np.asarray(ids, np.int32) for ids in self._encode_all(texts)]
        for index, text in enumerate(texts):
            if SPACE_MARK in text:
                encoded[index] = np.asarray(self.encode_with_offsets(text).ids, np.int32)
        return encoded

    def _encode_all(self, texts):
        # One thread: preparation runs one process a core.
        return self._processor.encode(texts, num_threads=1)

    @functools.cached_property
    def _words(self):
        exact = word_cache.is_exact(self.model)
        return word_cache.WordCache(self._encode_all) if exact else None

    def encode_inside(self, texts):
        return self._inside.encode_batch(texts)

    @functools.cached_property
    def _inside(self):
        return SentencePieceTokenizer(sentencepiece_files.keep_spaces(self.model))

    def encode_with_offsets(self, text):
        # SentencePiece spells a space as U+2581; one in the text must not come back as a space.
        mark = [self._processor.piece_to_id(f"<0x{byte:02X}>") for byte in SPACE_MARK.encode()]
        if self.unk_id in mark:  # No byte fallback: the model cannot say it at all.
            mark = [self.unk_id]
        serialize = functools.partial(self._processor.encode, out_type="serialized_proto")
        return offsets_lib.from_sentencepiece(text, serialize, mark)

    def encode_written(self, text, as_text=()):
        return special_tokens.encode_split(self, text, as_text)

    def decode(self, ids):
        return self._processor.decode([int(i) for i in ids])

    def piece(self, token_id):
        if self._processor.is_control(int(token_id)):
            return self._processor.id_to_piece(int(token_id))
        return printable(self.raw(token_id))

    def raw(self, token_id):
        piece = self._processor.id_to_piece(int(token_id))
        if self._processor.is_byte(int(token_id)):
            return bytes([int(piece[3:-1], 16)])
        return piece.replace(SPACE_MARK, " ").encode()

    def num_bytes(self, token_id):
        return 0 if self._processor.is_control(int(token_id)) else len(self.raw(token_id))

    def id_of(self, name):
        token_id = self._processor.piece_to_id(name)
        return None if token_id == self.unk_id else token_id

    def is_special(self, token_id):
        kinds = (self._processor.is_control, self._processor.is_unknown, self._processor.is_unused)
        return any(is_kind(int(token_id)) for is_kind in kinds)

    def text_of(self, token_id):
        return self.raw(token_id).decode(errors="replace")

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        atomic_files.write(folder / _MODEL, self.model)
        atomic_files.write(folder / KIND, "sentencepiece\n")


_MODEL = "sentencepiece.model"
_MASK_NAMES = ("<mask>", "[MASK]")


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
    if not (folder_files.has_folder(folder) and (folder / KIND).is_file()):
        raise UserError(f"{folder} holds no tokenizer: {KIND} is missing; give the folder of a run")
    try:
        kind = (folder / KIND).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        raise ValueError(f"{KIND} is no text") from None
    match kind:
        case "bytes":
            return ByteTokenizer()
        case "sentencepiece":
            contents = (folder / _MODEL).read_bytes()
            if not sentencepiece_files.is_model(contents):
                raise ValueError(f"{_MODEL} is no SentencePiece model")
            return SentencePieceTokenizer(contents)
        case "file" | "transformers" | "transformers, of a task":  # The first is an older run's.
            is_of_task = kind == "transformers, of a task"
            names_all = kind != "file"
            return hugging_face_tokenizer.load(folder, names_all=names_all, is_of_task=is_of_task)
    raise UserError(f"{folder / KIND} says {kind!r}, which is unknown; restore the folder")


def load_file(path: str | pathlib.Path) -> Tokenizer:
    """Reads a SentencePiece model, a `tokenizer.json` with its companions, or a whole folder.

    A folder is one of `transformers` or the `tokenizer` of a run; so is that of a file that does
    not say all of a tokenizer by itself.

    Raises:
      UserError: there is no such file, or it is no tokenizer.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(
            f"tokenizer.path={str(path)!r} is no file; give a tokenizer.json, a .model, or a "
            "folder of transformers"
        )
    folder = path if path.is_dir() else path.parent
    if path.is_file() and path.suffix not in (".json", ".txt"):
        sentencepiece_files.parse(path)  # For its error.
        return SentencePieceTokenizer(path.read_bytes())
    usual = tokenizer_folder.TOKENIZER
    names_all = path.is_file() and path.suffix == ".json" and path.name not in ("vocab.json", usual)
    if (folder / KIND).is_file() and not names_all:
        return load(folder)
    name = path.name if names_all else usual
    files = tokenizer_folder.read(folder, name) | stop_ids.read(folder)
    try:
        return HuggingFaceTokenizer(files, is_of_task=tokenizer_folder.is_of_task(folder))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
