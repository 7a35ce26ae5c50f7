"""Tokenizing in parallel processes. Imports no JAX: every worker imports this module."""

import collections
import contextlib
import functools
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lm.corpus import lost_characters
from lm.corpus.documents import Document, cut_long
from lm.system import workers
from lm.tokenizers import tokenizers

_CHUNK_CHARS = 2**18  # Enough work to outweigh sending it; small enough that no worker idles long.


class Tokenized(NamedTuple):
    """The token ids of one document, or of a part of a long one, without specials."""

    tokens: np.ndarray
    num_bytes: int  # Of its text in UTF-8.
    num_chars: int
    lost: collections.Counter[str]  # Characters that its tokens do not give back.
    digest: bytes  # The same for the same text, but for white space around it.
    goes_on: bool  # Whether the next one is of the same document.


TokenizeFn = Callable[[Iterable[Document]], Iterator[Tokenized]]


@contextlib.contextmanager
def tokenizing(folder: pathlib.Path, num_processes: int) -> Iterator[TokenizeFn]:
    """Yields a function that tokenizes documents in order, with the tokenizer in `folder`.

    With one process, the caller's own is used.

    Raises:
      UserError: a process was killed.
    """
    if num_processes == 1:
        encoder = Encoder(tokenizers.load(folder))
        yield lambda documents: (
            result for parts in chunks(documents, _CHUNK_CHARS) for result in encoder.encode(parts)
        )
        return
    with workers.spawned(num_processes, _load_in_worker, (folder,), "tokenized") as pool:
        yield lambda documents: _in_order(pool, documents, max_waiting=4 * num_processes)


def _in_order(pool, documents: Iterable[Document], max_waiting: int) -> Iterator[Tokenized]:
    # Not by the pool's own `map`, which would read the whole corpus before the first result.
    waiting = collections.deque()
    for parts in chunks(documents, _CHUNK_CHARS):
        waiting.append(pool.submit(_tokenize_in_worker, parts))
        if len(waiting) == max_waiting:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


class Part(NamedTuple):
    """What is encoded at once: a document, or a part of a long one."""

    text: str
    inside: bool  # Of a long document, behind its first part.
    goes_on: bool


def chunks(documents: Iterable[Document], num_chars: int) -> Iterator[list[Part]]:
    """Cuts documents into work of at least so many characters, but for the last."""
    parts, size, inside = [], 0, False
    for document in cut_long(documents):
        parts.append(Part(document.text, inside, document.goes_on))
        inside = document.goes_on
        size += len(document.text)
        if size >= num_chars:
            yield parts
            parts, size = [], 0
    if parts:
        yield parts


class Encoder:
    """Encodes parts of documents with a tokenizer."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self._tokenizer = tokenizer
        self._is_lossless = lost_characters.is_lossless(tokenizer)

    def encode(self, parts: Sequence[Part]) -> list[Tokenized]:
        """Gives the ids of each part."""
        ids = iter(self._tokenizer.encode_batch([part.text for part in parts if not part.inside]))
        return [
            self._tokenized(part, self._inside(part.text) if part.inside else next(ids))
            for part in parts
        ]

    def _tokenized(self, part: Part, tokens: np.ndarray) -> Tokenized:
        data = part.text.encode()
        lost = collections.Counter()
        if not self._is_lossless:
            lost = lost_characters.find(
                self._tokenizer, part.text, tokens.tolist(), inside=part.inside
            )
        # Stripped: a last line end makes no other document.
        digest = hashlib.blake2b(data.strip(), digest_size=16).digest()
        return Tokenized(tokens, len(data), len(part.text), lost, digest, part.goes_on)

    def _inside(self, text: str) -> np.ndarray:
        encode = self._after_a_space if text.startswith(" ") else self._tokenizer.encode_inside
        return encode([text])[0]

    @functools.cached_property
    def _after_a_space(self) -> Callable[[list[str]], list[np.ndarray]]:
        """Encodes what follows a cut before a space, so that no token tells of the cut."""
        # Tokenizers differ in the space that they put before a text, and in whether it is one more,
        # so the ways are tried on a text of which the tokens are known.
        before, after = "One word", " and  two\n\nor more, 3."
        whole = self._tokenizer.encode_batch([before + after])[0].tolist()
        kept = self._tokenizer.encode_batch([before])[0].tolist()
        ways = (
            self._tokenizer.encode_batch,
            self._tokenizer.encode_inside,
            lambda texts: self._tokenizer.encode_batch([text[1:] for text in texts]),
        )
        equal = (way for way in ways if kept + way([after])[0].tolist() == whole)
        return next(equal, self._tokenizer.encode_inside)


_worker_encoder: Encoder


def _load_in_worker(folder: pathlib.Path) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # There is a process for every core already.
    _worker_encoder = Encoder(tokenizers.load(folder))


def _tokenize_in_worker(parts: list[Part]) -> list[Tokenized]:
    return _worker_encoder.encode(parts)
