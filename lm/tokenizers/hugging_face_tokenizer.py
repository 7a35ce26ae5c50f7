"""Tokenizers of the `tokenizers` library, as `lm.tokenizers.tokenizers` has them."""

import functools
import hashlib
import json
import pathlib
from typing import Any

import numpy as np
import tokenizers

from lm.errors import UserError
from lm.system import atomic_files, folder_files
from lm.tokenizers import framing, special_tokens, stop_ids, whitespace
from lm.tokenizers import offsets as offsets_lib
from lm.tokenizers.json_files import json_object
from lm.tokenizers.pieces import KIND, SPACE_MARK, byte_of, first, of_byte_level, printable
from lm.tokenizers.tokenizer_folder import CONFIG, TOKENIZER, USUAL_NAMES

_MAP = "special_tokens_map.json"
# Where `bos_token` is none, what begins a sequence is `cls_token`: [CLS] of a BERT.
_NAMES = {
    "pad": ("pad_token",),
    "bos": ("bos_token", "cls_token"),
    "eos": ("eos_token", "sep_token"),
    "mask": ("mask_token",),
}


class HuggingFaceTokenizer:
    """A `tokenizer.json`, with its special tokens found by name.

    The names are those of tokenizer_config.json; a name that it does not have is the usual one.
    Text that spells a special token is encoded as text, which is not so in `transformers`.

    Args:
      files: contents by name.
      is_of_task: whether it is that of a model with a head, which reads texts within what the
        post-processor puts around them, be it nothing.
      older_names: of a run that was made before tokenizer_config.json named all; its tasks read
        texts within the first and the last token, and not what the post-processor puts around them.
    """

    def __init__(
        self,
        files: dict[str, bytes],
        *,
        is_of_task: bool = False,
        older_names: dict[str, str] | None = None,
    ):
        self._files, self._is_of_task = files, is_of_task
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
            self._find(names, keys) for keys in _NAMES.values()
        )
        self._is_byte_level = "ByteLevel" in json.dumps(parts.get("decoder"))
        self._continuing_prefix = parts["model"].get("continuing_subword_prefix")
        unk = parts["model"].get("unk_token") or ""  # Unigram gives the id, the others a name.
        self.unk_id = parts["model"].get("unk_id", library.token_to_id(unk))
        self._added = {i: token.content for i, token in _added(library) if not token.special}
        self._special = {i for i, token in _added(library) if token.special}
        named = stop_ids.parse(files.get(stop_ids.FILE, b"{}"))
        known = range(self.vocab_size)
        self.stop_ids = tuple(dict.fromkeys(i for i in (self.eos_id, *named) if i in known))
        about_text = sorted(files.keys() - {stop_ids.FILE})
        digest = hashlib.sha256(b"".join(files[name] for name in about_text)).hexdigest()
        self.special_ids = {library.id_to_token(i): i for i in sorted(self._special)}
        if not self._is_older and names.get("split_special_tokens"):
            self.special_ids = {}
        beside = [json.loads(files.get(name, b"{}")) for name in (_MAP, CONFIG)]
        self.named_tokens = special_tokens.named(self, library.id_to_token, beside)
        self.fingerprint = f"tokenizer.json {digest}"

    def _find(self, names: dict[str, str | None], keys: tuple[str, ...]) -> int | None:
        said = [names[key] for key in keys if key in names]
        usual = [] if said else USUAL_NAMES[keys[0]]
        return first(self._tokenizer.token_to_id(name) for name in (*said, *usual) if name)

    def frame(self, num_texts):
        if self._own_frames:
            return self._own_frames[num_texts - 1]
        return framing.plain(self.bos_id, self.eos_id, num_texts)

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
        inside = whitespace.keep_hugging_face(self.tokenizer_json)
        return HuggingFaceTokenizer(self._files | {TOKENIZER: inside})

    def encode_with_offsets(self, text):
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return offsets_lib.from_hugging_face(text, encoding.ids, encoding.tokens, encoding.offsets)

    def encode_written(self, text, as_text=()):
        if not self.special_ids:
            return self.encode_with_offsets(text)
        return self._written.encode(text, as_text)

    @functools.cached_property
    def _written(self):
        return special_tokens.SplitAtSpecialTokens(self._tokenizer)

    def decode(self, ids):
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)

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

    def files(self) -> dict[str, bytes]:
        """All that it was made of, by name."""
        return dict(self._files)

    def save(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, contents in self._files.items():
            atomic_files.write(folder / name, contents)
        kind = "transformers, of a task" if self._is_of_task else "transformers"
        atomic_files.write(folder / KIND, "file\n" if self._is_older else f"{kind}\n")


def _added(library: tokenizers.Tokenizer) -> list[tuple[int, tokenizers.AddedToken]]:
    return list(library.get_added_tokens_decoder().items())


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
    names = (TOKENIZER, CONFIG, stop_ids.FILE, *[_MAP] * (not names_all))
    files = {
        name: (folder / name).read_bytes() for name in names if folder_files.has(folder / name)
    }
    if TOKENIZER not in files:
        raise UserError(f"{folder / TOKENIZER} is missing; restore it")
    for name in files.keys() - {TOKENIZER}:
        json_object(folder / name, files[name])
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
    """Raises UserError for a Unigram that `tokenizers` would fail with, at the first character that
    it has no piece for. Where text becomes bytes first, there may be none.
    """
    vocabulary = parts["model"]["vocab"]
    if not isinstance(vocabulary, list) or parts["model"].get("unk_id") is not None:
        return
    steps = json.dumps([parts.get("normalizer"), parts.get("pre_tokenizer")])
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    if "ByteLevel" not in steps or not {piece for piece, _ in vocabulary} >= {*alphabet}:
        raise UserError(
            f"the Unigram of {TOKENIZER} has no token for what it does not know, and would fail "
            "with a text that has such a character; give its model an unk_id"
        )


def _older_names(files: dict[str, bytes], tokenizer: HuggingFaceTokenizer) -> dict[str, str]:
    """What is null, or no token, is left to the usual names."""
    said = {}
    for name in (_MAP, CONFIG):  # The latter has the last word.
        for key, token in json.loads(files.get(name, b"{}")).items():
            text = token["content"] if isinstance(token, dict) else token
            if key in USUAL_NAMES and text is not None and tokenizer.id_of(text) is not None:
                said[key] = text
    return said
