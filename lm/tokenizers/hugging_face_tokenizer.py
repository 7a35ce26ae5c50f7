"""Wraps tokenizers of the `tokenizers` library, as `lm.tokenizers.tokenizers` has them."""

import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import tokenizers

from lm.errors import UserError
from lm.system import atomic_files, folder_files
from lm.tokenizers import framing, special_tokens, stop_ids
from lm.tokenizers import offsets as offsets_lib
from lm.tokenizers.pieces import KIND, SPACE_MARK, byte_of, first, of_byte_level, printable
from lm.tokenizers.tokenizer_folder import CONFIG, TOKENIZER, TOKENS_MAP, USUAL_NAMES

# Of pad_id, bos_id, eos_id and mask_id. Without `bos_token`, `cls_token` begins a sequence: BERT's
# [CLS].
_NAMES = [("pad_token",), ("bos_token", "cls_token"), ("eos_token", "sep_token"), ("mask_token",)]


class HuggingFaceTokenizer:
    """A `tokenizer.json`, with its special tokens found by the names of tokenizer_config.json.

    Text that spells a special token is encoded as text, which is not so in `transformers`.

    Args:
      files: contents by name; all that the tokenizer is made of.
      is_of_task: whether it is that of a model with a head, which reads texts within what the
        post-processor puts around them, be it nothing.
      older_names: of a run that was made before tokenizer_config.json named all; its tasks read
        texts within bos and eos, and not what the post-processor puts around them.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        *,
        is_of_task: bool = False,
        older_names: dict[str, str] | None = None,
    ):
        self.files, self._is_of_task = files, is_of_task
        self._is_older = older_names is not None
        self._tokenizer = library = tokenizers.Tokenizer.from_str(files[TOKENIZER].decode())
        parts = json.loads(files[TOKENIZER])
        _check_knows_all(parts)
        library.no_padding()
        library.no_truncation()
        own_frames = [framing.frame_of(library, num_texts) for num_texts in (1, 2)]
        self.prefix_ids, self.suffix_ids = own_frames[0].special_ids
        is_framed = is_of_task or (self.suffix_ids and not self._is_older)
        self._own_frames = own_frames if is_framed else None
        library.post_processor = None  # Special tokens are ours; it would trim offsets.
        library.encode_special_tokens = True  # That is: as text.
        # Ids may have gaps, so that there are fewer tokens than the largest id says.
        self.vocab_size = 1 + max(library.get_vocab(with_added_tokens=True).values())
        names = json.loads(files.get(CONFIG, b"{}")) if older_names is None else older_names
        self.pad_id, self.bos_id, self.eos_id, self.mask_id = (
            self._find(names, keys) for keys in _NAMES
        )
        self._is_byte_level = "ByteLevel" in json.dumps(parts.get("decoder"))
        self._falls_back_to_bytes = "ByteFallback" in json.dumps(parts.get("decoder"))
        self._continuing_prefix = parts["model"].get("continuing_subword_prefix")
        unk = parts["model"].get("unk_token") or ""  # Unigram gives the id, the others a name.
        self.unk_id = parts["model"].get("unk_id", library.token_to_id(unk))
        added = library.get_added_tokens_decoder()
        self._added = {i for i, token in added.items() if not token.special}
        self._special = added.keys() - self._added
        named = stop_ids.parse(files.get(stop_ids.FILE, b"{}"))
        known = range(self.vocab_size)
        self.stop_ids = tuple(dict.fromkeys(i for i in (self.eos_id, *named) if i in known))
        about_text = sorted(files.keys() - {stop_ids.FILE})  # Stop ids change no data.
        digest = hashlib.sha256(b"".join(files[name] for name in about_text)).hexdigest()
        self.special_ids = {library.id_to_token(i): i for i in sorted(self._special)}
        if not self._is_older and names.get("split_special_tokens"):
            self.special_ids = {}
        beside = [json.loads(files.get(name, b"{}")) for name in (TOKENS_MAP, CONFIG)]
        self.named_tokens = special_tokens.named(self, library.id_to_token, beside)
        self.fingerprint = f"tokenizer.json {digest}"

    def _find(self, names: dict[str, str | None], keys: tuple[str, ...]) -> int | None:
        said = [names[key] for key in keys if key in names]
        usual = [] if said else USUAL_NAMES[keys[0]]  # A name that is null is none at all.
        return first(self._tokenizer.token_to_id(name) for name in (*said, *usual) if name)

    def frame(self, num_texts):
        if self._own_frames:
            return self._own_frames[num_texts - 1]
        return framing.plain(self.bos_id, self.eos_id, num_texts)

    @property
    def tokenizer_json(self) -> str:
        """As `tokenizers` itself writes it, without the spellings of older versions."""
        return self._tokenizer.to_str()

    def with_tokenizer_json(self, contents: bytes) -> "HuggingFaceTokenizer":
        """Returns the same with another tokenizer.json."""
        files = self.files | {TOKENIZER: contents}
        return HuggingFaceTokenizer(files, is_of_task=self._is_of_task)

    def encode_batch(self, texts):
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.asarray(encoding.ids, np.int32) for encoding in encodings]

    def encode_inside(self, texts):
        return self._inside.encode_batch(texts)

    @functools.cached_property
    def _inside(self):
        parts = json.loads(self.tokenizer_json)
        steps = {key: _keep_spaces(parts.get(key)) for key in ("normalizer", "pre_tokenizer")}
        return HuggingFaceTokenizer(self.files | {TOKENIZER: json.dumps(parts | steps).encode()})

    def encode_with_offsets(self, text):
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return offsets_lib.from_hugging_face(text, encoding.ids, encoding.tokens, encoding.offsets)

    def encode_written(self, text, as_text=()):
        if not self.special_ids:  # Also where its files ask for `split_special_tokens`.
            return self.encode_with_offsets(text)
        return self._written.encode(text, as_text)

    @functools.cached_property
    def _written(self):
        return special_tokens.SplitAtSpecialTokens(self._tokenizer)

    def decode(self, ids):
        ids = [int(i) for i in ids]
        text = self._tokenizer.decode(ids, skip_special_tokens=True)
        if "\ufffd" not in text or not self._falls_back_to_bytes:
            return text
        # One byte that is no UTF-8 would take all characters with it that are bytes beside it.
        names = (self._tokenizer.id_to_token(i) for i in ids if i not in self._special)
        return self._tokenizer.decoder.decode(_apart(filter(None, names)))

    def piece(self, token_id):
        if int(token_id) in self._special or self._continuing_prefix:
            return self._tokenizer.id_to_token(int(token_id))
        return printable(self.raw(token_id))

    def raw(self, token_id):
        token_id = int(token_id)
        token = self._tokenizer.id_to_token(token_id) or ""
        if token_id in self._added:
            return token.encode()
        if self._is_byte_level:
            return of_byte_level(token)
        if self._continuing_prefix:  # WordPiece: what does not continue a word follows a space.
            inside = token.startswith(self._continuing_prefix)
            return (token.removeprefix(self._continuing_prefix) if inside else " " + token).encode()
        if byte := byte_of(token):
            return byte
        return token.replace(SPACE_MARK, " ").encode()

    def num_bytes(self, token_id):
        if int(token_id) in self._special:
            return 0
        if self._is_byte_level or int(token_id) in self._added:
            return len(self.raw(token_id))
        return len(self._tokenizer.decode([int(token_id)]).encode())

    def id_of(self, name):
        return self._tokenizer.token_to_id(name)

    def is_special(self, token_id):
        # Ids may have gaps, which are no text either.
        return token_id in self._special or self._tokenizer.id_to_token(int(token_id)) is None

    def text_of(self, token_id):
        return self.raw(token_id).decode(errors="replace")

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in self.files.items():
            atomic_files.write(folder / name, contents)
        kind = "transformers, of a task" if self._is_of_task else "transformers"
        atomic_files.write(folder / KIND, "file\n" if self._is_older else f"{kind}\n")


def _apart(names: Iterable[str]) -> list[str]:
    """Puts U+FFFD in the place of bytes that are no UTF-8.

    <0xE4> <0x41> a -> U+FFFD <0x41> a
    """
    found = []
    for is_byte, run in itertools.groupby(names, key=lambda name: byte_of(name) is not None):
        if not is_byte:
            found += run
            continue
        for character in b"".join(map(byte_of, run)).decode(errors="surrogateescape"):
            is_text = not "\udc80" <= character <= "\udcff"
            found += [f"<0x{byte:02X}>" for byte in character.encode()] if is_text else ["\ufffd"]
    return found


def _keep_spaces(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """Returns a normalizer or pre-tokenizer that keeps the spaces at a text's start; None for none.

    WordPiece, which has no token for a space, stays as it is.
    """
    match part:
        case {"type": "Sequence"}:
            key = "normalizers" if "normalizers" in part else "pretokenizers"
            steps = [step for step in map(_keep_spaces, part[key]) if step is not None]
            if any(step["type"] == "Metaspace" for step in steps):
                # It drops the spaces that Metaspace would mark, which marks every word's start.
                steps = [step for step in steps if step["type"] != "WhitespaceSplit"]
            return part | {key: steps}
        case {"type": "ByteLevel"}:
            return part | {"add_prefix_space": False}
        case {"type": "Metaspace"}:
            return part | {"prepend_scheme": "never"}
        case {"type": "Strip"}:
            return part | {"strip_left": False}
        case {"type": "Prepend"}:
            return None
        case {"type": "Replace", "pattern": {"Regex": regex}} if regex.startswith(r"\A"):
            return None  # What SentencePiece does to the spaces at the start of a text.
    return part


def load(
    folder: pathlib.Path, *, names_all: bool, is_of_task: bool = False
) -> HuggingFaceTokenizer:
    """Reads what `HuggingFaceTokenizer.save` wrote.

    Args:
      folder: of the files.
      names_all: whether tokenizer_config.json names every special token. Older runs have the files
        of the folder of `transformers` that theirs came from, in which what is null is usual.
      is_of_task: see `HuggingFaceTokenizer`.

    Raises:
      UserError: a file is damaged.
    """
    names = (TOKENIZER, CONFIG, stop_ids.FILE, *[TOKENS_MAP] * (not names_all))
    files = {
        name: (folder / name).read_bytes() for name in names if folder_files.has(folder / name)
    }
    if TOKENIZER not in files:
        raise UserError(f"{folder / TOKENIZER} is missing; restore it")
    for name in files.keys() - {TOKENIZER}:
        folder_files.json_object(folder / name, files[name])  # For its error.
    try:
        found = HuggingFaceTokenizer(files, is_of_task=is_of_task)
        if names_all:
            return found
        return HuggingFaceTokenizer(files, older_names=_older_names(files, found))
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    except Exception as error:  # `tokenizers` raises nothing narrower.
        raise UserError(f"{folder / TOKENIZER} is no {TOKENIZER}: {error}; restore it") from None


def _check_knows_all(parts: dict[str, Any]) -> None:
    """Raises UserError for a Unigram that has no token for what it does not know, and needs one."""
    vocabulary = parts["model"]["vocab"]
    if not isinstance(vocabulary, list) or parts["model"].get("unk_id") is not None:
        return
    steps = json.dumps([parts.get("normalizer"), parts.get("pre_tokenizer")])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    # Where text becomes bytes first, all of which have a piece, nothing is unknown.
    if "ByteLevel" not in steps or not {piece for piece, _ in vocabulary} >= {*alphabet}:
        raise UserError(
            f"the Unigram of {TOKENIZER} has no token for what it does not know, and would fail "
            "with a text that has such a character; give its model an unk_id"
        )


def _older_names(files: dict[str, bytes], tokenizer: HuggingFaceTokenizer) -> dict[str, str]:
    """Reads names as older runs did: what is null, or no token, is left to the usual names."""
    said = {}
    for name in (TOKENS_MAP, CONFIG):  # The latter has the last word.
        for key, token in json.loads(files.get(name, b"{}")).items():
            text = token["content"] if isinstance(token, dict) else token
            if key in USUAL_NAMES and text is not None and tokenizer.id_of(text) is not None:
                said[key] = text
    return said
