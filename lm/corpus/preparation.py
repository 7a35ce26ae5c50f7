"""Preparation: from a source to packed rows in a cache that is named by all that shaped it."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lm.corpus import packing
from lm.corpus.beam_tokenization import make_tokenize
from lm.corpus.packed_rows import JoinedRows, PackedRows, RowReader, damaged, naming_damage
from lm.corpus.sources import Source, make_source, readable
from lm.corpus.split_counts import SplitCounter, SplitInfo, notes, read_info
from lm.corpus.tokenization import Tokenized, TokenizeFn, tokenizing
from lm.corpus.tokenizer_kinds import MakeTokenizerFn, no_text, tokenizer_kind
from lm.errors import UserError
from lm.formats import files
from lm.run import lock
from lm.settings import choose
from lm.system import atomic_files, faults, manifest
from lm.system.apache_beam import Beam, make_beam
from lm.system.progress_bar import say, track
from lm.tokenizers import tokenizers

SPLITS = ("train", "validation")
_FORMAT = 1  # Raise it whenever the same source and options would give other files.
_META = "meta.json"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A corpus, tokenized and packed into rows of `seq_len` tokens."""

    folder: pathlib.Path
    hash: str
    seq_len: int
    tokenizer: tokenizers.Tokenizer
    splits: dict[str, SplitInfo]

    @property
    def tokenizer_block(self) -> dict[str, str]:
        """The `tokenizer` of `prepare` by which another corpus gets the very ids of this one."""
        return {"kind": "file", "path": str(self.folder / "tokenizer")}

    @property
    def corpora(self) -> dict[str, "Prepared"]:
        """Itself, without a name; those of a mixture have names."""
        return {"": self}

    def notes(self) -> list[str]:
        """Says in lines what people must know of the corpus before they believe its numbers."""
        return notes(self.splits)

    def open_rows(self, split: str) -> JoinedRows:
        """Opens the rows of a split."""
        return JoinedRows([RowReader(self.folder, split, self.tokenizer.vocab_size)])


def prepare(
    *,
    source: str,
    train: str | Sequence[str],
    validation: str | Sequence[str],
    field: str,
    seq_len: int,
    add_bos: bool,
    add_eos: bool,
    on_error: str,
    tokenizer: dict[str, Any],
    cache_dir: str | pathlib.Path,
    max_document_bytes: int = files.MAX_DOCUMENT_BYTES,
    num_processes: int | None = None,
    engine: Mapping[str, Any] | None = None,
    only: Sequence[str] = SPLITS,
) -> Prepared:
    """Prepares a corpus if the cache does not have it, and opens it there.

    Args:
      source, train, validation, field: see `sources.make_source`.
      seq_len: tokens a row.
      add_bos, add_eos: what every document starts and ends with.
      on_error: "raise", or "skip" to leave out and count documents that cannot be read.
      tokenizer: `kind` and the settings of that kind; see `tokenizer_kinds.KINDS`.
      cache_dir: the parent of all caches.
      max_document_bytes: see `sources.make_source`.
      num_processes: that tokenize; by default one for each core.
      engine: `runner` and `options` of Apache Beam, on which to tokenize; without any, or None:
        in the processes. The files are the same.
      only: the splits that are needed; without training, no tokenizer can be trained.

    Raises:
      UserError: anything in the arguments or the documents that the user can mend.
    """
    choose("data.on_error", on_error, ("raise", "skip"))
    if seq_len < 1:
        raise UserError(f"data.seq_len={seq_len} must be at least 1")
    beam = make_beam("data.engine", **engine) if engine and any(engine.values()) else None
    specs = {s: spec for s, spec in (("train", train), ("validation", validation)) if s in only}
    settings = dict(field=field, max_document_bytes=max_document_bytes)
    sources = {s: make_source(source, split=s, spec=specs[s], **settings) for s in specs}
    make_tokenizer, tokenizer_hash = tokenizer_kind(**tokenizer)
    is_limited = max_document_bytes != files.MAX_DOCUMENT_BYTES
    # All that shapes a row is in here, and nothing else: an unused key would prepare data twice.
    identity = json.dumps(
        {
            "format": _FORMAT,
            "sources": {split: sources[split].fingerprint() for split in specs},
            "tokenizer": tokenizer_hash,
            "options": [source, specs, field, seq_len, add_bos, add_eos, on_error],
        }
        # Where longer documents are errors that raise, the limit shapes nothing.
        | ({"limit": max_document_bytes} if on_error == "skip" and is_limited else {})
    )
    name = hashlib.sha256(identity.encode()).hexdigest()[:20]
    folder = pathlib.Path(cache_dir) / name
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock.held(folder.parent, file_name=f"{name}.lock", wait=True):
            if not folder.is_dir():  # Another process may have made it while this one waited.
                _prepare(
                    folder,
                    sources,
                    make_tokenizer,
                    seq_len=seq_len,
                    specials=(add_bos, add_eos),
                    on_error=on_error,
                    num_processes=num_processes or len(os.sched_getaffinity(0)),
                    beam=beam,
                )
    prepared = _open(folder)
    for split, info in prepared.splits.items():
        if not info.num_predicted_bytes:  # An older version let it pass.
            raise no_text(split)
    return prepared


def _prepare(
    folder: pathlib.Path,
    sources: dict[str, Source],
    make_tokenizer: MakeTokenizerFn,
    *,
    seq_len: int,
    specials: tuple[bool, bool],
    on_error: str,
    num_processes: int,
    beam: Beam | None,
) -> None:
    """Fills a folder beside the final one, and renames it once all is on disk."""
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        to_learn_from = readable(sources["train"], on_error, []) if "train" in sources else ()
        tokenizer = make_tokenizer(iter(to_learn_from))
        start, end = _special_tokens(tokenizer, *specials)
        tokenizer.save(unfinished / "tokenizer")
        # Validation first, so that training documents can be looked for in it.
        validation = SplitCounter()
        counters = {"validation": validation, "train": SplitCounter(beside=validation)}
        with _tokenizing(unfinished, num_processes, beam) as tokenize:

            def rows(split: str) -> Iterator[list[packing.Piece]]:
                skipped: list[UserError] = []
                parts = track(
                    tokenize(readable(sources[split], on_error, skipped)),
                    f"preparing {split}",
                    lambda part: part.num_bytes,
                )
                tokens = _with_specials(parts, tokenizer, start, end, counters[split])
                for row in packing.pack(tokens, seq_len):
                    counters[split].num_rows += 1
                    yield row
                counters[split].end(skipped)
                _report_skipped(split, skipped)
                if not counters[split].num_predicted_bytes:
                    raise no_text(split)

            splits = {s: functools.partial(rows, s) for s in counters if s in sources}
            with faults.naming(unfinished):
                PackedRows(
                    folder=unfinished, splits=splits, vocab_size=tokenizer.vocab_size
                ).write()
        splits = {split: counters[split].info() for split in sources}
        if "train" not in sources:  # Nobody knows what it shares with validation.
            unknown = dict(num_shared=None, num_shared_bytes=None)
            splits["validation"] = dataclasses.replace(splits["validation"], **unknown)
        for split in sources:
            written = len(RowReader(unfinished, split, tokenizer.vocab_size))
            # Read back before the folder gets its name, or a bad one would be trusted for good.
            assert written == splits[split].num_rows, (split, written, splits[split])
        meta = {"seq_len": seq_len, "splits": {s: dataclasses.asdict(splits[s]) for s in splits}}
        atomic_files.write(unfinished / _META, json.dumps(meta, indent=1))
        # Rows have checksums of their own, by ArrayRecord.
        manifest.write(unfinished, unread="*.array_record-*")
        atomic_files.rename_folder(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _tokenizing(
    folder: pathlib.Path, num_processes: int, beam: Beam | None
) -> contextlib.AbstractContextManager[TokenizeFn]:
    if beam is None:
        return tokenizing(folder / "tokenizer", num_processes)
    return contextlib.nullcontext(make_tokenize(folder / "tokenizer", beam, folder))


def _with_specials(
    parts: Iterable[Tokenized],
    tokenizer: tokenizers.Tokenizer,
    start: list[int],
    end: list[int],
    counter: SplitCounter,
) -> Iterator[Iterator[np.ndarray]]:
    """Yields the ids of each document with its special tokens, in an array for each part."""
    parts = iter(parts)  # Shared: `whole` takes further parts of its document from it.

    def whole(part: Tokenized) -> Iterator[np.ndarray]:
        # Nothing predicts a document's first token. Its bytes must not make the rest look cheap.
        given = 0 if len(start) or not len(part.tokens) else tokenizer.num_bytes(part.tokens[0])
        counter.begin(given, num_specials=len(start) + len(end))
        before = np.array(start, np.int32)
        while part.goes_on:
            counter.add(part)
            yield np.concatenate([before, part.tokens])
            before, part = before[:0], next(parts)
        counter.add(part)
        yield np.concatenate([before, part.tokens, np.array(end, np.int32)])

    return map(whole, parts)


def _special_tokens(
    tokenizer: tokenizers.Tokenizer, add_bos: bool, add_eos: bool
) -> tuple[list[int], list[int]]:
    """Gives the tokens that stand before and after each document."""
    for key, wanted, token_id in (
        ("data.add_bos", add_bos, tokenizer.bos_id),
        ("data.add_eos", add_eos, tokenizer.eos_id),
    ):
        if wanted and token_id is None:
            raise UserError(
                f"{key}=True, but the tokenizer has no such token; if it lost its special tokens, "
                f"restore tokenizer_config.json beside it, or else set {key}=False"
            )
    return [tokenizer.bos_id] * add_bos, [tokenizer.eos_id] * add_eos


def _report_skipped(split: str, skipped: Sequence[UserError]) -> None:
    rest = [error for error in skipped if isinstance(error, files.RestUnread)]
    if num := len(skipped) - len(rest):
        say(f"{split}: left out {num} documents that cannot be read, the first of which:")
    for error in [error for error in skipped if error not in rest][:5]:
        say(f"  {error}")
    for error in rest[:5]:
        say(f"{split}: the rest of a file was not read: {error}")


def _open(folder: pathlib.Path) -> Prepared:
    has_manifest = (folder / manifest.NAME).exists()  # An older version wrote none.
    if has_manifest and (problem := manifest.problem(folder)):
        raise damaged(folder, problem)
    with naming_damage(folder):
        meta = json.loads((folder / _META).read_bytes())
        tokenizer = tokenizers.load(folder / "tokenizer")
        splits = {split: read_info(info, tokenizer) for split, info in meta["splits"].items()}
        return Prepared(
            folder=folder,
            hash=folder.name,
            seq_len=meta["seq_len"],
            tokenizer=tokenizer,
            splits=splits,
        )
