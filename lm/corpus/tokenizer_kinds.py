"""The kinds of tokenizers that a config names: what makes each from the training documents."""

import hashlib
import importlib.metadata
import json
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lm.corpus.documents import Document
from lm.errors import UserError
from lm.run import lock
from lm.settings import keywords, lookup
from lm.system import atomic_files, manifest
from lm.system.progress_bar import track, waiting
from lm.tokenizers import tokenizers, training

SAMPLE_CHARS = 100_000_000  # More text than this hardly changes what a tokenizer learns.
_PIECE_CHARS = 100_000

MakeTokenizerFn = Callable[[Iterator[Document]], tokenizers.Tokenizer]


# By kind: a function from training documents to a tokenizer, and a string that names what it makes.
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
    character_coverage: float,
    mask: bool,
    num_sentinels: int,
) -> tuple[MakeTokenizerFn, str]:
    # In this order always, since their JSON is in the hash that names the cache.
    options = dict(algorithm=algorithm, vocab_size=vocab_size, user_symbols=list(user_symbols))
    options |= dict(mask=mask, num_sentinels=num_sentinels)
    if character_coverage != training.COVERAGE:  # As it was before there was the key.
        options |= dict(character_coverage=character_coverage)

    def train(documents: Iterator[Document]) -> tokenizers.Tokenizer:
        documents = track(documents, "reading train", lambda document: len(document.text.encode()))
        texts = sample(documents, SAMPLE_CHARS)
        if not any(texts):
            raise no_text("train")
        with waiting(f"training a {algorithm} tokenizer of {vocab_size} pieces"):
            return training.train_sentencepiece(texts, **options)

    return train, f"sentencepiece {json.dumps(options)} {_version('sentencepiece')}"


KINDS: dict[str, Callable[..., tuple[MakeTokenizerFn, str]]] = {
    "bytes": _bytes,
    "sentencepiece": _sentencepiece,
    "file": _file,
}


def tokenizer_kind(*, kind: str, **options) -> tuple[MakeTokenizerFn, str]:
    """Gives what makes a block's tokenizer from documents, and a string that names it.

    Raises:
      UserError: the kind is unknown, or the options are not those that it takes.
    """
    make = lookup("tokenizer.kind", kind, KINDS)
    takes = keywords(make).keys()
    if options.keys() != takes:
        raise UserError(
            f"config.tokenizer with kind={kind!r} takes {', '.join(takes) or 'no other key'}, "
            f"but has {', '.join(options) or 'no other key'}"
        )
    return make(**options)


def keep_tokenizer(
    block: dict[str, Any],
    documents: Callable[[], Iterator[Document]],
    fingerprint: Callable[[], str],
    cache_dir: str | pathlib.Path,
) -> dict[str, Any]:
    """Trains the tokenizer of a block, unless the cache has it, for corpora that share it.

    Args:
      block: `kind`, and the settings of that kind.
      documents: gives what it learns from, of as many corpora as one likes.
      fingerprint: gives what changes whenever the documents do; asked for where they are read.
      cache_dir: the parent of all caches.

    Returns the block that names what was trained; of a kind that learns nothing, the block itself.

    Raises:
      UserError: see `tokenizer_kind`; the documents hold no text.
    """
    if block["kind"] != "sentencepiece":
        return block
    make_tokenizer, name = tokenizer_kind(**block)
    digest = hashlib.sha256(json.dumps([name, fingerprint()]).encode()).hexdigest()[:20]
    folder = pathlib.Path(cache_dir) / f"tokenizer-{digest}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with lock.held(folder.parent, file_name=f"{folder.name}.lock", wait=True):
            if not folder.is_dir():  # Another process may have made it while this one waited.
                unfinished = folder.with_suffix(".unfinished")
                shutil.rmtree(unfinished, ignore_errors=True)
                make_tokenizer(documents()).save(unfinished)
                manifest.write(unfinished)
                atomic_files.rename_folder(unfinished, folder)
    return {"kind": "file", "path": str(folder)}


def no_text(split: str) -> UserError:
    """Makes the error of a split without any text."""
    return UserError(
        f"the {split} split of data.source holds no text that could be predicted; give "
        f"data.{split} some"
    )


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def sample(documents: Iterable[Document], max_chars: int) -> list[str]:
    """Samples pieces of documents: about half of `max_chars` or more, or all where there is less.

    In one pass and in bounded memory.
    """
    # Those whose hash lies below a limit, which is halved whenever too many are held: the same for
    # the same documents, without a random state and without knowing how many there will be.
    limit, kept, size = 2**64, [], 0
    for key, text in _pieces(documents):
        rank = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
        if rank < limit:
            kept.append((rank, text))
            size += len(text)
        while size > max_chars:
            limit //= 2
            kept = [(rank, text) for rank, text in kept if rank < limit]
            size = sum(len(text) for _, text in kept)
    return [text for _, text in kept]


def _pieces(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    """Cuts documents into pieces of one size, each with a name that says where it starts."""
    start, rest = 0, ""
    for document in documents:
        text = rest + document.text
        # What is left of a part waits for the next, so that parts of any size give these pieces.
        end = len(text) // _PIECE_CHARS * _PIECE_CHARS if document.goes_on else len(text)
        for at in range(0, end, _PIECE_CHARS):
            yield f"{document.name} {start + at}", text[at : min(at + _PIECE_CHARS, end)]
        start, rest = (start + end, text[end:]) if document.goes_on else (0, "")
