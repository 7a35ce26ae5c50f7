"""A mixture of corpora: prepares each by itself, with one tokenizer for all of them."""

import collections
import contextlib
import dataclasses
import filecmp
import hashlib
import itertools
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lm.corpus import preparation, source_weights, split_counts, tokenizer_kinds
from lm.corpus.documents import Document
from lm.corpus.mixture import Mixture
from lm.corpus.packed_rows import JoinedRows
from lm.corpus.preparation import SPLITS, Prepared
from lm.corpus.sources import Source, make_source, readable
from lm.corpus.split_counts import SplitInfo
from lm.errors import UserError
from lm.formats import files
from lm.settings import call
from lm.tokenizers import tokenizers

_NO_NAMES = ("loss", "perplexity", "bits_per_byte", "macro")
_OF_ONE = ("source", "train", "validation", "field")  # Of a `data` block, what sources have.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceBlock:
    """One of `data.sources`: where its text comes from, and how often it is drawn."""

    source: str
    train: str | Sequence[str]
    validation: str | Sequence[str]
    field: str
    weight: float
    max_epochs: float

    @property
    def place(self) -> dict[str, Any]:
        """The keys that `preparation.prepare` takes."""
        return {name: getattr(self, name) for name in _OF_ONE}


@dataclasses.dataclass(frozen=True)
class MixedCorpus:
    """Corpora by name, of one tokenizer and one length of rows; has what a `Prepared` has.

    Its rows are those of its corpora, one after the other in the order of their names.
    """

    corpora: Mapping[str, Prepared]
    settings: source_weights.Settings

    @property
    def hash(self) -> str:
        """Names what was prepared of all corpora."""
        hashes = {name: prepared.hash for name, prepared in self.corpora.items()}
        return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:20]

    @property
    def seq_len(self) -> int:
        return next(iter(self.corpora.values())).seq_len

    @property
    def tokenizer(self) -> tokenizers.Tokenizer:
        return next(iter(self.corpora.values())).tokenizer

    @property
    def tokenizer_block(self) -> dict[str, str]:
        """The `tokenizer` of `preparation.prepare` that gives another corpus the same ids."""
        return next(iter(self.corpora.values())).tokenizer_block

    @property
    def splits(self) -> dict[str, SplitInfo]:
        """What each split of all corpora together holds."""
        infos = collections.defaultdict(list)
        for prepared in self.corpora.values():
            for split, info in prepared.splits.items():
                infos[split].append(info)
        return {split: split_counts.together(several) for split, several in infos.items()}

    def notes(self) -> list[str]:
        """Says in lines what people must know of each corpus before they believe its numbers."""
        every = {name: prepared.notes() for name, prepared in self.corpora.items()}
        return [f"{name}: {line}" for name, lines in every.items() for line in lines]

    def open_rows(self, split: str) -> JoinedRows:
        """Opens the rows of a split."""
        return JoinedRows([p.open_rows(split).readers[0] for p in self.corpora.values()])

    def mixture(self, num_steps: int, batch_size: int) -> Mixture:
        """Makes the order of a run's examples; raises UserError as `make_mixture` does."""
        infos = {name: prepared.splits["train"] for name, prepared in self.corpora.items()}
        return source_weights.make_mixture(
            self.settings,
            num_rows={name: info.num_rows for name, info in infos.items()},
            num_tokens={name: info.num_tokens for name, info in infos.items()},
            num_steps=num_steps,
            batch_size=batch_size,
        )


def read_blocks(
    *, sources: Mapping[str, Mapping[str, Any]], mixture: Mapping[str, Any], **data
) -> tuple[dict[str, SourceBlock], source_weights.Settings]:
    """Reads what a `data` block says of a mixture: its sources by name, in order, and weights.

    Raises:
      UserError: a key that is unknown, missing, or set beside `data.sources` in vain.
    """
    if not sources:
        raise UserError("data.sources names no source; give it a block for each")
    for name in sources:
        if not re.fullmatch(r"[\w-]+", name):
            raise UserError(f"data.sources: {name!r} must be of letters, digits, _ and - alone")
        if name in _NO_NAMES:
            raise UserError(f"data.sources.{name}: eval/{name} is a metric; take another name")
    for key in _OF_ONE:
        if data.get(key):
            raise UserError(
                f"data.{key}={data[key]!r} means nothing beside data.sources, which are "
                f"{', '.join(sorted(sources))}; leave one of the two out"
            )
    blocks = {
        name: call(SourceBlock, f"data.sources.{name}", sources[name]) for name in sorted(sources)
    }
    settings = call(
        source_weights.Settings,
        "data.mixture",
        mixture,
        weights={name: block.weight for name, block in blocks.items()},
        max_epochs={name: block.max_epochs for name, block in blocks.items()},
    )
    return blocks, settings


def prepare(
    *,
    sources: Mapping[str, Mapping[str, Any]],
    mixture: Mapping[str, Any],
    source: str = "",
    train: str = "",
    validation: str = "",
    field: str = "",
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
) -> MixedCorpus:
    """Prepares each corpus that the cache does not have, and opens them all there.

    The cache of a corpus is named by what shaped it, and so does not change with its weight, nor
    with those of others. A tokenizer is trained on all of them, in equal parts as far as they have
    so much text, whatever their weights.

    Args:
      sources, mixture: these blocks of `data`.
      source, train, validation, field: of a corpus that is none of several; empty.
      seq_len, ...: see `preparation.prepare`.

    Raises:
      UserError: see `read_blocks` and `preparation.prepare`; two sources hold the same.
    """
    of_one = dict(source=source, train=train, validation=validation, field=field)
    blocks, settings = read_blocks(sources=sources, mixture=mixture, **of_one)
    opened = {}
    for name, block in blocks.items():  # All of them, before hours go into the first.
        with _naming(name):
            opened[name] = {
                split: make_source(
                    block.source,
                    split=split,
                    spec=getattr(block, split),
                    field=block.field,
                    max_document_bytes=max_document_bytes,
                )
                for split in only
            }
    if "train" in only:
        texts = {name: splits["train"] for name, splits in opened.items()}
        tokenizer = _shared_tokenizer(blocks, texts, on_error, tokenizer, cache_dir)
    corpora = {}
    for name, block in blocks.items():
        with _naming(name):
            corpora[name] = preparation.prepare(
                **block.place,
                seq_len=seq_len,
                add_bos=add_bos,
                add_eos=add_eos,
                on_error=on_error,
                tokenizer=tokenizer,
                cache_dir=cache_dir,
                max_document_bytes=max_document_bytes,
                num_processes=num_processes,
                engine=engine,
                only=only,
            )
    for one, other in itertools.combinations(corpora, 2):
        if "train" in only and _hold_the_same(corpora[one], corpora[other]):
            raise UserError(
                f"data.sources.{one} and data.sources.{other} hold the same training text; leave "
                "one of them out"
            )
    return MixedCorpus(corpora, settings)


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Makes errors about the keys of `data` such about those of one of its sources."""
    try:
        yield
    except UserError as error:
        key = rf"\bdata\.({'|'.join(_OF_ONE)})\b"
        text, num = re.subn(key, rf"data.sources.{name}.\1", str(error))
        raise UserError(text if num else f"data.sources.{name}: {text}") from None


def _shared_tokenizer(
    blocks: Mapping[str, SourceBlock],
    texts: Mapping[str, Source],
    on_error: str,
    tokenizer: dict[str, Any],
    cache_dir: str | pathlib.Path,
) -> dict[str, Any]:
    """Returns the block of a tokenizer that is trained on all sources, if it is to be trained."""
    # By size alone a large source would leave the others few pieces, and by weight each change of
    # a weight would have all of them tokenized anew.
    most = tokenizer_kinds.SAMPLE_CHARS // len(texts)

    def documents() -> Iterator[Document]:
        for name, source in texts.items():
            pieces = tokenizer_kinds.sample(readable(source, on_error, []), most)
            yield from (Document(text, f"{name} {i}") for i, text in enumerate(pieces))

    def fingerprint() -> str:
        places = {name: [b.source, b.train, b.field] for name, b in blocks.items()}
        prints = {name: source.fingerprint() for name, source in texts.items()}
        return json.dumps([places, prints, on_error])

    return tokenizer_kinds.keep_tokenizer(tokenizer, documents, fingerprint, cache_dir)


def _hold_the_same(one: Prepared, other: Prepared) -> bool:
    if one.splits["train"] != other.splits["train"]:
        return False
    # The same rows are the same bytes.
    files_of = lambda prepared: sorted(prepared.folder.glob("packed_rows/*/*-train.array_record*"))
    pairs = itertools.zip_longest(files_of(one), files_of(other), fillvalue="")
    return all(a and b and filecmp.cmp(a, b, shallow=False) for a, b in pairs)
