"""Preparation: from a source to packed rows in a cache that is named by all that shaped it."""

import collections
import dataclasses
import functools
import hashlib
import importlib.metadata
import inspect
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import filelock
import numpy as np

from lm.data import packing, tokenizer_training, tokenizers
from lm.data.cache import PackedRows, RowReader
from lm.data.progress import say, track, waiting
from lm.data.sources import Document, Source, make_source, readable
from lm.data.tokenization import Tokenized, tokenizing
from lm.errors import UserError

SPLITS = ("train", "validation")
_FORMAT = 1  # Raise it whenever the same source and options would give other files.
_META = "meta.json"
_SAMPLE_CHARS = 100_000_000  # More text than this hardly changes what a tokenizer learns.
_PIECE_CHARS = 100_000

MakeTokenizerFn = Callable[[Iterator[Document]], tokenizers.Tokenizer]


@dataclasses.dataclass(frozen=True)
class SplitInfo:
    """What one split holds.

    num_tokens counts the special tokens of documents too; num_bytes is the text's UTF-8, and
    num_predicted_bytes that of the tokens which have one before them in their document.
    """

    num_rows: int
    num_tokens: int
    num_documents: int
    num_bytes: int
    num_predicted_bytes: int
    num_skipped: int

    def padding(self, seq_len: int) -> float:
        """The fraction of the rows that is left empty."""
        return 1 - self.num_tokens / (self.num_rows * seq_len)


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A corpus, tokenized and packed into rows of `seq_len` tokens."""

    folder: pathlib.Path
    hash: str
    seq_len: int
    tokenizer: tokenizers.Tokenizer
    splits: dict[str, SplitInfo]


def prepare(
    *,
    source: str,
    train: str,
    validation: str,
    field: str,
    seq_len: int,
    add_bos: bool,
    add_eos: bool,
    on_error: str,
    tokenizer: dict[str, Any],
    cache_dir: str | pathlib.Path,
    num_processes: int | None = None,
) -> Prepared:
    """Opens the corpus in the cache, after putting it there if it is new.

    Args:
      source, train, validation, field: see `sources.make_source`.
      seq_len: tokens a row.
      add_bos, add_eos: what every document starts and ends with.
      on_error: "raise", or "skip" to leave out and count documents that cannot be read.
      tokenizer: `kind` and the settings of that kind; see `_KINDS`.
      cache_dir: the parent of all caches.
      num_processes: that tokenize; by default one for each core.

    Raises:
      UserError: anything in the arguments or the documents that the user can mend.
    """
    if on_error not in ("raise", "skip"):
        raise UserError(f"data.on_error={on_error!r} is unknown; choose raise or skip")
    if seq_len < 1:
        raise UserError(f"data.seq_len={seq_len} must be at least 1")
    specs = {"train": train, "validation": validation}
    sources = {s: make_source(source, split=s, spec=specs[s], field=field) for s in SPLITS}
    make_tokenizer, tokenizer_hash = tokenizer_kind(**tokenizer)
    identity = json.dumps(
        {
            "format": _FORMAT,
            "sources": {split: sources[split].fingerprint() for split in SPLITS},
            "tokenizer": tokenizer_hash,
            "options": [source, specs, field, seq_len, add_bos, add_eos, on_error],
        }
    )
    name = hashlib.sha256(identity.encode()).hexdigest()[:20]
    folder = pathlib.Path(cache_dir) / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():  # Another process may have made it while this one waited.
                _prepare(
                    folder,
                    sources,
                    make_tokenizer,
                    seq_len=seq_len,
                    specials=(add_bos, add_eos),
                    on_error=on_error,
                    num_processes=num_processes or len(os.sched_getaffinity(0)),
                )
    return _open(folder)


def _prepare(
    folder: pathlib.Path,
    sources: dict[str, Source],
    make_tokenizer: MakeTokenizerFn,
    *,
    seq_len: int,
    specials: tuple[bool, bool],
    on_error: str,
    num_processes: int,
) -> None:
    """Fills a folder beside the final one, and renames it once all is on disk."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        tokenizer = make_tokenizer(readable(sources["train"], on_error, skipped=[]))
        start, end = _special_tokens(tokenizer, *specials)
        tokenizer.save(unfinished / "tokenizer")
        counts = {split: collections.Counter() for split in SPLITS}
        with tokenizing(unfinished / "tokenizer", num_processes) as tokenize:

            def rows(split: str) -> Iterator[list[packing.Piece]]:
                skipped: list[UserError] = []
                documents = track(
                    tokenize(readable(sources[split], on_error, skipped)),
                    f"preparing {split}",
                    lambda document: document.num_bytes,
                )
                tokens = _with_specials(documents, tokenizer, start, end, counts[split])
                for row in packing.pack(tokens, seq_len):
                    counts[split]["num_rows"] += 1
                    yield row
                _report_skipped(split, skipped)
                counts[split]["num_skipped"] = len(skipped)
                if not counts[split]["num_rows"]:
                    raise _no_text(split)

            splits = {split: functools.partial(rows, split) for split in SPLITS}
            PackedRows(folder=unfinished, splits=splits, vocab_size=tokenizer.vocab_size).write()
        for split in SPLITS:
            written = len(RowReader(unfinished, split, tokenizer.vocab_size))
            assert written == counts[split]["num_rows"], (split, written, counts[split])
        names = [field.name for field in dataclasses.fields(SplitInfo)]
        splits = {split: {name: counts[split][name] for name in names} for split in SPLITS}
        (unfinished / _META).write_text(
            json.dumps({"seq_len": seq_len, "splits": splits}, indent=1)
        )
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _with_specials(
    documents: Iterable[Tokenized],
    tokenizer: tokenizers.Tokenizer,
    start: list[int],
    end: list[int],
    counts: collections.Counter,
) -> Iterator[np.ndarray]:
    """Each document's ids with its special tokens, while counting."""
    start, end = np.array(start, np.int32), np.array(end, np.int32)
    for tokens, num_bytes in documents:
        # Nothing predicts a document's first token. Its bytes must not make the rest look cheap.
        given = 0 if len(start) or not len(tokens) else tokenizer.num_bytes(tokens[0])
        tokens = np.concatenate([start, tokens, end])
        counts["num_documents"] += 1
        counts["num_tokens"] += len(tokens)
        counts["num_bytes"] += num_bytes
        counts["num_predicted_bytes"] += num_bytes - given
        yield tokens


def _special_tokens(
    tokenizer: tokenizers.Tokenizer, add_bos: bool, add_eos: bool
) -> tuple[list[int], list[int]]:
    """What stands before and after each document."""
    for key, wanted, token_id in (
        ("data.add_bos", add_bos, tokenizer.bos_id),
        ("data.add_eos", add_eos, tokenizer.eos_id),
    ):
        if wanted and token_id is None:
            raise UserError(
                f"{key}=True, but the tokenizer has no such token; if it lost its special tokens, "
                f"restore special_tokens_map.json beside it, or else set {key}=False"
            )
    return [tokenizer.bos_id] * add_bos, [tokenizer.eos_id] * add_eos


def _no_text(split: str) -> UserError:
    return UserError(f"the {split} split of data.source holds no text; give data.{split} some")


def _report_skipped(split: str, skipped: Sequence[UserError]) -> None:
    if skipped:
        say(f"{split}: left out {len(skipped)} documents that cannot be read, the first of which:")
        for error in skipped[:5]:
            say(f"  {error}")


def _open(folder: pathlib.Path) -> Prepared:
    meta = json.loads((folder / _META).read_text())
    return Prepared(
        folder=folder,
        hash=folder.name,
        seq_len=meta["seq_len"],
        tokenizer=tokenizers.load(folder / "tokenizer"),
        splits={split: SplitInfo(**info) for split, info in meta["splits"].items()},
    )


# Tokenizers by kind: each gives a function from the training documents to a tokenizer, and a string
# that changes whenever the tokenizer would.


def _bytes() -> tuple[MakeTokenizerFn, str]:
    return lambda documents: tokenizers.ByteTokenizer(), tokenizers.ByteTokenizer.fingerprint


def _file(*, path: str) -> tuple[MakeTokenizerFn, str]:
    tokenizer = tokenizers.load_file(path)
    return lambda documents: tokenizer, f"{tokenizer.fingerprint} {_version('tokenizers')}"


def _sentencepiece(
    *,
    algorithm: str,
    vocab_size: int,
    user_symbols: Sequence[str],
    mask: bool,
    num_sentinels: int,
) -> tuple[MakeTokenizerFn, str]:
    options = dict(
        algorithm=algorithm,
        vocab_size=vocab_size,
        user_symbols=list(user_symbols),
        mask=mask,
        num_sentinels=num_sentinels,
    )

    def train(documents: Iterator[Document]) -> tokenizers.Tokenizer:
        documents = track(documents, "reading train", lambda document: len(document.text.encode()))
        texts = sample(documents, _SAMPLE_CHARS)
        if not any(texts):
            raise _no_text("train")
        with waiting(f"training a {algorithm} tokenizer of {vocab_size} pieces"):
            return tokenizer_training.train_sentencepiece(texts, **options)

    return train, f"sentencepiece {json.dumps(options)} {_version('sentencepiece')}"


_KINDS: dict[str, Callable[..., tuple[MakeTokenizerFn, str]]] = {
    "bytes": _bytes,
    "sentencepiece": _sentencepiece,
    "file": _file,
}


def tokenizer_kind(*, kind: str, **options) -> tuple[MakeTokenizerFn, str]:
    """What makes the tokenizer of a config's block from documents, and a string that names it.

    Raises:
      UserError: the kind is unknown, or the options are not those that it takes.
    """
    if kind not in _KINDS:
        raise UserError(f"tokenizer.kind={kind!r} is unknown; choose {', '.join(_KINDS)}")
    takes = inspect.signature(_KINDS[kind]).parameters.keys()
    if options.keys() != takes:
        raise UserError(
            f"config.tokenizer with kind={kind!r} takes {', '.join(takes) or 'no other key'}, "
            f"but has {', '.join(options) or 'no other key'}"
        )
    return _KINDS[kind](**options)


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def sample(documents: Iterable[Document], max_chars: int) -> list[str]:
    """Pieces of documents, about half of `max_chars` or more where there is more, all otherwise.

    In one pass, in bounded memory, and the same for the same documents: pieces are kept whose hash
    lies below a limit, which is halved whenever too many are held.
    """
    limit, kept, size = 2**64, [], 0
    for document in documents:
        for start in range(0, len(document.text), _PIECE_CHARS):
            text = document.text[start : start + _PIECE_CHARS]
            key = f"{document.name} {start}".encode()
            rank = int.from_bytes(hashlib.sha256(key).digest()[:8], "big")
            if rank < limit:
                kept.append((rank, text))
                size += len(text)
            while size > max_chars:
                limit //= 2
                kept = [(rank, text) for rank, text in kept if rank < limit]
                size = sum(len(text) for _, text in kept)
    return [text for _, text in kept]
