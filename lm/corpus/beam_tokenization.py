"""Tokenizing on Apache Beam: texts go to its workers in files, and ids come back in files.

Reading, and packing, in which each row depends on all documents before it, stay in one process.
"""

import collections
import functools
import json
import pathlib
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from backports import zstd

from lm.corpus.documents import Document
from lm.corpus.tokenization import Encoder, Part, Tokenized, TokenizeFn, chunks
from lm.system.apache_beam import Beam, in_turn
from lm.tokenizers import tokenizers

_TASK_CHARS = 2**24  # Seconds of work, beside which starting a task is nothing.
_ID = np.dtype("<i4")


def make_tokenize(tokenizer: pathlib.Path, beam: Beam, scratch: pathlib.Path) -> TokenizeFn:
    """Makes what `tokenization.tokenizing` gives; the workers must see both folders."""
    return functools.partial(_tokenize, tokenizer, beam, scratch)


def _tokenize(
    tokenizer: pathlib.Path, beam: Beam, scratch: pathlib.Path, documents: Iterable[Document]
) -> Iterator[Tokenized]:
    import apache_beam

    folder = pathlib.Path(tempfile.mkdtemp(prefix="beam-", dir=scratch))
    try:
        tasks = []
        for number, parts in enumerate(chunks(documents, _TASK_CHARS)):
            tasks.append(folder / f"{number:06d}")
            _write_texts(_texts(tasks[-1]), parts)
        encode = functools.partial(_encode, tokenizer=tokenizer)
        beam.run(lambda pipeline: beam.tasks(pipeline, tasks) | apache_beam.Map(encode))
        for task in tasks:
            yield from _read_ids(_ids(task))
            _ids(task).unlink()  # So that the disk does not hold them and the rows.
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _encode(task: pathlib.Path, *, tokenizer: pathlib.Path) -> None:
    # Runners try again, also while an attempt that they have given up goes on elsewhere.
    attempt = task.with_suffix(f".{uuid.uuid4().hex}")
    found = in_turn(_encoder, tokenizer).encode(_read_texts(_texts(task)))
    _write_ids(attempt, found)
    attempt.replace(_ids(task))


@functools.lru_cache(maxsize=1)
def _encoder(tokenizer: pathlib.Path) -> Encoder:
    return Encoder(tokenizers.load(tokenizer))


def _texts(task: pathlib.Path) -> pathlib.Path:
    return task.with_suffix(".texts.zst")


def _ids(task: pathlib.Path) -> pathlib.Path:
    return task.with_suffix(".ids")


def _write_texts(path: pathlib.Path, parts: Sequence[Part]) -> None:
    with zstd.open(path, "wb") as file:
        file.writelines(json.dumps(part).encode() + b"\n" for part in parts)


def _read_texts(path: pathlib.Path) -> list[Part]:
    with zstd.open(path, "rb") as file:
        return [Part(*json.loads(line)) for line in file]


def _write_ids(path: pathlib.Path, found: Iterable[Tokenized]) -> None:
    """Writes of each part a line of JSON, and behind it its ids."""
    with path.open("wb") as file:
        for one in found:
            fields = one._asdict() | {"tokens": len(one.tokens), "digest": one.digest.hex()}
            file.write(json.dumps(fields).encode() + b"\n" + one.tokens.astype(_ID).tobytes())


def _read_ids(path: pathlib.Path) -> Iterator[Tokenized]:
    with path.open("rb") as file:
        for line in file:
            fields = json.loads(line)
            data = file.read(fields["tokens"] * _ID.itemsize)
            fields["tokens"] = np.frombuffer(data, _ID)
            fields["lost"] = collections.Counter(fields["lost"])
            fields["digest"] = bytes.fromhex(fields["digest"])
            yield Tokenized(**fields)
