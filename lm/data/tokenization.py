"""Tokenizing in parallel processes. Imports no JAX: every worker imports this module."""

import collections
import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import types
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from lm import faults, watched
from lm.data import tokenizers
from lm.data.sources import Document
from lm.errors import UserError

_CHUNK_CHARS = 2**18  # Enough work to outweigh sending it; small enough that no worker idles long.


class Tokenized(NamedTuple):
    """The token ids of one document, without specials, and the size of its text in UTF-8."""

    tokens: np.ndarray
    num_bytes: int


TokenizeFn = Callable[[Iterable[Document]], Iterator[Tokenized]]


@contextlib.contextmanager
def tokenizing(folder: pathlib.Path, num_processes: int) -> Iterator[TokenizeFn]:
    """Yields a function that tokenizes documents in order, with the tokenizer in `folder`.

    The processes are spawned: forking one in which JAX runs its threads can deadlock. With one
    process, the caller's own is used.

    Raises:
      UserError: a process was killed.
    """
    if num_processes == 1:
        tokenizer = tokenizers.load(folder)
        yield lambda documents: (
            result for texts in _chunks(documents) for result in _tokenize(tokenizer, texts)
        )
        return
    context = multiprocessing.get_context("spawn")
    with faults.naming("/dev/shm"):  # Where Linux keeps what processes share.
        all_started = context.Barrier(num_processes)
    with concurrent.futures.ProcessPoolExecutor(
        num_processes,
        mp_context=context,
        initializer=_load_in_worker,
        initargs=(os.getpid(), folder, all_started),
    ) as pool:
        _start(pool, num_processes)
        try:
            yield lambda documents: _in_order(pool, documents, max_waiting=4 * num_processes)
        except concurrent.futures.process.BrokenProcessPool:
            raise UserError(
                "a process that tokenized was killed, as the kernel does where memory is short; "
                "free some, and run the same command again"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _start(pool: concurrent.futures.Executor, num_processes: int) -> None:
    """Starts all processes, without the caller's main module.

    A spawned process would import that again, and with it JAX, for seconds; and a script without
    `if __name__ == "__main__"` would start processes without end.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        for _ in range(num_processes):  # None is idle before all have started: see the barrier.
            pool.submit(int)
    finally:
        sys.modules["__main__"] = main


def _in_order(pool, documents: Iterable[Document], max_waiting: int) -> Iterator[Tokenized]:
    """The pool's own `map` would read the whole corpus before the first result."""
    waiting = collections.deque()
    for texts in _chunks(documents):
        waiting.append(pool.submit(_tokenize_in_worker, texts))
        if len(waiting) == max_waiting:
            yield from waiting.popleft().result()
    while waiting:
        yield from waiting.popleft().result()


def _chunks(documents: Iterable[Document]) -> Iterator[list[str]]:
    texts, size = [], 0
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= _CHUNK_CHARS:
            yield texts
            texts, size = [], 0
    if texts:
        yield texts


def _tokenize(tokenizer: tokenizers.Tokenizer, texts: list[str]) -> list[Tokenized]:
    return [
        Tokenized(tokens, len(text.encode()))
        for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True)
    ]


_worker_tokenizer: tokenizers.Tokenizer


def _load_in_worker(parent: int, folder: pathlib.Path, all_started) -> None:
    global _worker_tokenizer
    watched.die_with(parent)
    # These are for the parent, which ends its workers in order.
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # There is a process for every core already.
    _worker_tokenizer = tokenizers.load(folder)
    all_started.wait()


def _tokenize_in_worker(texts: list[str]) -> list[Tokenized]:
    return _tokenize(_worker_tokenizer, texts)
