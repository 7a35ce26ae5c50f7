"""Reads prompts: in chunks, by few shapes, and behind what earlier prompts began with."""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from lm.generation import decoding
from lm.generation.prefixes import Prefixes
from lm.generation.requests import Top
from lm.generation.rows import Drawn, Programs


class Token(NamedTuple):
    """Tells of a token how likely it was; see `requests.TokenEvent`."""

    token: int
    log_prob: float
    top: Top


@dataclasses.dataclass
class Reading:
    """Holds a prompt that is being read."""

    prompt: tuple[int, ...]
    num_top: int | None  # Likeliest tokens told of each token of the prompt; None to tell nothing.
    num_context: int = 1  # Tokens that it begins with and of which nothing is told.
    num_read: int = 0  # Of its tokens.
    caches: Any = None
    logits_1V: Any = None  # Of the token behind the last that was read.
    scores: list[Token] = dataclasses.field(default_factory=list)  # Of the last that were read.
    is_known: bool = False  # Whether all that others may share of it was read before.

    @property
    def is_done(self) -> bool:
        """Whether texts can begin."""
        return self.num_read == len(self.prompt)


class Reader:
    """Reads prompts of at most `max_len` tokens; the other arguments are those of `Engine`."""

    def __init__(
        self,
        programs: Programs,
        *,
        max_len: int,
        chunk_len: int,
        shortest: int,
        prefix_bytes: int,
        exact: bool,
    ):
        self._programs, self._max_len, self._shortest = programs, max_len, shortest
        # An encoder sees a prompt from both ends, so that it is read at once, and shares no part.
        self._chunk_len = max_len if programs.has_encoder else min(chunk_len, max_len)
        self._sizes = decoding.fine_buckets(self._chunk_len)
        self._is_exact = exact
        self._shares = not exact and not programs.has_encoder and prefix_bytes > 0
        self._prefix_bytes = 0 if programs.has_encoder else prefix_bytes
        self.prefixes = Prefixes(self._prefix_bytes)

    def begin(self, prompt: tuple[int, ...], num_top: int | None, num_context: int = 0) -> Reading:
        """Begins to read a prompt, behind what is known of it already; see `GenerationRequest`."""
        num_context = max(num_context, 1) if num_top is not None else len(prompt)
        reading = Reading(prompt, num_top, num_context)
        if self._shares:
            # What follows a known token is not known: the last of the context is always read.
            num, caches = self.prefixes.find(prompt[: num_context - 1])
            if self._cost(len(prompt) - num) < self._cost(len(prompt)):
                reading.num_read, reading.caches = num, caches
                reading.is_known = num_top is not None and num == num_context - 1
        return reading

    def next_len(self, reading: Reading) -> int:
        """Says how many tokens `read` takes next."""
        return min(len(reading.prompt) - reading.num_read, self._chunk_len)

    def read(self, reading: Reading) -> None:
        """Reads a prompt's next chunk."""
        first, num = reading.num_read, self.next_len(reading)
        tokens_1L, length_1 = self._padded(reading.prompt[first : first + num])
        if self._programs.has_encoder:
            num_slots = slots_for(tokens_1L.shape[1], self._shortest)
            found = self._programs.encode(tokens_1L, length_1, num_slots=num_slots)
            reading.logits_1V, reading.caches = found
        else:
            num_slots = self._slots_of_prompt(len(reading.prompt), first)
            hidden_1LD = self._read_chunk(reading, tokens_1L, length_1, num_slots)
            if reading.num_top is not None and first + num >= reading.num_context:
                self._score(reading, hidden_1LD)
        reading.num_read += num
        if reading.is_done and not reading.is_known and not self._programs.has_encoder:
            self.prefixes.add(reading.prompt, reading.caches)

    def warm(self) -> None:
        """Compiles all that can occur, and finds whether prefixes can be shared to the bit."""
        for size in self._sizes:
            some = Reading((0,) * min(size, self._chunk_len), None)
            if not self._programs.has_encoder:
                some.num_top = 1
            self.read(some)
            if not self._programs.has_encoder:
                self._warm_behind(some)
        self.prefixes.clear()
        if self._is_exact and self._prefix_bytes:
            lengths = {self._chunk_len, self._max_len}
            self._shares = all(self._shares_exactly(length) for length in lengths)

    def _warm_behind(self, some: Reading) -> None:
        """Compiles the reading of a chunk behind others, or behind a prefix."""
        num_slots = self._slots_of_prompt(self._chunk_len + (not self._prefix_bytes), first=1)
        while num_slots <= slots_for(self._max_len, self._shortest):
            self._programs.nothing_read(num_slots=num_slots)
            self._read_chunk(some, *self._padded(some.prompt), num_slots)
            num_slots *= 2

    def _shares_exactly(self, length: int) -> bool:
        """Says whether a prompt's end is read to the same bits behind a prefix of any length."""
        # Likelihoods are compared once: they take the whole table of the vocabulary.
        scored = self._sizes[0] if length == self._chunk_len else 0
        num_top = 1 if scored else None
        whole = Reading(some_tokens(length, self._programs.vocab_size), num_top)
        while not whole.is_done:
            self.read(whole)
        same = True
        for rest in (size for size in self._sizes if size <= min(length, self._chunk_len)):
            num_top = 1 if rest == scored else None
            part = Reading(whole.prompt, num_top, 1, length - rest + 1, whole.caches)
            while not part.is_done:
                self.read(part)
            same = same and bool(np.array_equal(part.logits_1V, whole.logits_1V))
            same = same and part.scores == whole.scores[length - 1 - len(part.scores) :]
        self.prefixes.clear()
        return same

    def _read_chunk(self, reading: Reading, tokens_1L, length_1, num_slots: int) -> jax.Array:
        """Reads a chunk into so many slots; returns its hidden states, 1 x L x D."""
        if reading.caches is None:
            reading.caches = self._programs.nothing_read(num_slots=num_slots)
        reading.logits_1V, hidden_1LD, reading.caches = self._programs.read(
            tokens_1L,
            length_1,
            np.int32(reading.num_read),
            self._programs.resized(reading.caches, num_slots),
        )
        return hidden_1LD

    def _score(self, reading: Reading, hidden_1LD: jax.Array) -> None:
        """Tells of each token behind one of a chunk how likely it was."""
        first, size = reading.num_read + 1, hidden_1LD.shape[1]
        following = reading.prompt[first : first + self.next_len(reading)]
        next_L = np.zeros(size, np.int32)
        next_L[: len(following)] = following
        drawn = self._programs.score(hidden_1LD, next_L)
        reading.scores += tokens_of(drawn, [reading.num_top] * size)[: len(following)]

    def _cost(self, num: int) -> int:
        """Says how many tokens are computed to read so many."""
        whole, rest = divmod(num, self._chunk_len)
        return whole * self._chunk_len + (self._size(rest) if rest else 0)

    def _size(self, num: int) -> int:
        """Says how many tokens are computed to read so many at once."""
        return next(size for size in self._sizes if size >= num)

    def _padded(self, chunk: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Fills a chunk up with 0 to one of the sizes, 1 x L; returns also its length, 1."""
        tokens_1L = np.zeros((1, self._size(len(chunk))), np.int32)
        tokens_1L[0, : len(chunk)] = chunk
        return tokens_1L, np.array([len(chunk)], np.int32)

    def _slots_of_prompt(self, num: int, first: int) -> int:
        """Chooses the slots of a row for a prompt, few for each size of a chunk."""
        if first or num > self._chunk_len:
            num = max(num, self._chunk_len)
        return slots_for(num, self._shortest)


def some_tokens(num: int, vocab_size: int) -> tuple[int, ...]:
    """Makes a prompt that is always the same."""
    return tuple(np.random.default_rng(0).integers(0, vocab_size, num).tolist())


def slots_for(num: int, shortest: int) -> int:
    """33 and 8 give 64: twice the shortest, and so on, until there are enough."""
    while shortest < num:
        shortest *= 2
    return shortest


def tokens_of(drawn: Drawn, nums_top: list[int]) -> list[Token]:
    """Brings what was drawn from the device, with so many likeliest tokens of each row."""
    if not any(nums_top):
        token_B, log_prob_B = jax.device_get((drawn.token_B, drawn.log_prob_B))
        pairs = zip(token_B.tolist(), log_prob_B.tolist(), strict=True)
        return [Token(token, log_prob, ()) for token, log_prob in pairs]
    drawn = jax.device_get(drawn)
    return [
        Token(token, log_prob, tuple(zip(ids[:num], log_probs[:num], strict=True)))
        for token, log_prob, ids, log_probs, num in zip(
            drawn.token_B.tolist(),
            drawn.log_prob_B.tolist(),
            drawn.top_BC.tolist(),
            drawn.top_log_prob_BC.tolist(),
            nums_top,
            strict=True,
        )
    ]
