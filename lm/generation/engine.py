"""Writes many texts at once, which join and leave at any step, on arrays that it owns."""

import dataclasses
import itertools
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.generation import reading, rows, sampling
from lm.generation.reading import Reading, Token, some_tokens
from lm.generation.requests import Sampling
from lm.generation.sampling import DrawSettings
from lm.models.parameters import Params

_SEVERAL_ROWS = 8  # Of more than one text, at least.
_WARM_STEPS = 3  # Tokens that each shape writes when it is warmed.
_PATIENCE = 32  # Steps for which fewer rows or slots must do before any are taken away.


@dataclasses.dataclass
class _Text:
    """Says where a text is, and how long."""

    row: int
    num_slots: int  # That the next step needs.
    num_top: int


class Engine:
    """Holds the texts that a model is writing, by numbers that its user gives them.

    There are as many rows as texts need, and each has as many slots as the longest text needs, of
    few sizes, since each is compiled.

    Args:
      model, params, vocab_size, start_id: see `rows.Programs`.
      num_texts: at once, at most.
      max_len: tokens of a prompt with its text, at most; with an encoder, of each of the two.
      chunk_len: tokens of a prompt that a decoder reads at once, at most; a power of two from 32.
      shortest: slots that a row has at least; a power of two from 32.
      prefix_bytes: what the caches of earlier prompts may take, for those that begin alike.
      exact: no bit of a text depends on its company. Only shapes are used that were seen to give
        the same bits when they were warmed, and before that the largest alone.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Params,
        *,
        vocab_size: int,
        start_id: int,
        num_texts: int,
        max_len: int,
        chunk_len: int = 512,
        shortest: int = 128,
        prefix_bytes: int = 0,
        exact: bool = True,
    ):
        room = model.config.max_len
        if room is not None and max_len > room:
            raise UserError(f"max_len={max_len} exceeds the model's {room} positions")
        self.num_texts, self.max_len, self._shortest = num_texts, max_len, shortest
        self._programs = rows.Programs(model, params, vocab_size=vocab_size, start_id=start_id)
        self.has_encoder = self._programs.has_encoder
        self.reader = reading.Reader(
            self._programs,
            max_len=max_len,
            chunk_len=chunk_len,
            shortest=shortest,
            prefix_bytes=prefix_bytes,
            exact=exact,
        )
        self._counts = [1, _SEVERAL_ROWS] if num_texts > 1 else [1]
        while self._counts[-1] < num_texts:
            self._counts.append(2 * self._counts[-1])
        self._lengths = [shortest]
        while self._lengths[-1] < max_len:
            self._lengths.append(2 * self._lengths[-1])
        self._is_exact = exact
        self._shapes = list(itertools.product(range(len(self._counts)), self._lengths))
        self._usable = self._shapes[-1:] if exact else self._shapes
        self._texts: dict[int, _Text] = {}
        self._count, self._num_slots = self._usable[0]  # The first: which of the counts of rows.
        self._num_idle_steps = 0  # For which fewer rows or slots would have done.
        self._rows = self._programs.empty(self._counts[self._count], self._num_slots)

    @property
    def cache_bytes(self) -> int:
        """Says what keys and values take at present, those of earlier prompts included."""
        own = sum(x.nbytes for x in jax.tree.leaves(self._rows.caches))
        return own + self.reader.prefixes.num_bytes

    def check(self, prompt: Sequence[int], max_new_tokens: int, how: Sampling) -> None:
        """Raises UserError for a text that cannot be written."""
        sampling.check(
            temperature=how.temperature,
            top_k=how.top_k,
            top_p=how.top_p,
            min_p=how.min_p,
            repetition_penalty=how.repetition_penalty,
        )
        if not 0 <= how.num_logprobs <= rows.NUM_TOP:
            raise UserError(f"num_logprobs={how.num_logprobs} must lie in [0, {rows.NUM_TOP}]")
        if not prompt:
            raise UserError("the prompt is empty; give it at least one token")
        if bad := [token for token in prompt if not 0 <= token < self._programs.vocab_size]:
            most = self._programs.vocab_size - 1
            raise UserError(f"token {bad[0]} of the prompt is not known; ids lie in [0, {most}]")
        both = len(prompt), max_new_tokens
        if (max(both) if self.has_encoder else sum(both)) > self.max_len:
            raise UserError(
                f"a prompt of {len(prompt)} tokens and max_new_tokens={max_new_tokens} exceed the "
                f"{self.max_len} tokens that there is room for; shorten one of them"
            )

    def add(self, number: int, read: Reading, copy: int, how: Sampling, seed: int) -> Token:
        """Begins a text behind a prompt that was read, and draws its first token.

        Args:
          number: what the text is called from now on; there must be room for it.
          read: its prompt.
          copy: how many texts of this prompt and seed came before.
          how: how it is drawn; its own seed is not looked at.
          seed: of what is drawn.
        """
        num_read = len(read.prompt)
        # An encoder's caches have a slot for each token that was read, and for each written.
        num_slots = max(num_read, 2) if self.has_encoder else num_read + 1
        self._make_room(self._demand(1, num_slots))
        taken = {text.row for text in self._texts.values()}
        row = next(row for row in range(self._counts[self._count]) if row not in taken)
        self._texts[number] = _Text(row, num_slots, how.num_logprobs)
        seen_1V = np.zeros((1, self._programs.num_ids), bool)
        if how.repetition_penalty != 1:
            seen = [self._programs.start_id] if self.has_encoder else list(read.prompt)
            seen_1V[:, seen] = True
        new = rows.Rows(
            caches=self._programs.resized(read.caches, self._num_slots),
            token_B=np.zeros(1, np.int32),
            position_B=np.array([1 if self.has_encoder else num_read], np.int32),
            turn_B=np.zeros(1, np.int32),
            # As `jax.random.key` lays a seed out.
            keys_B=np.array([[seed >> 32 & 0xFFFFFFFF, seed & 0xFFFFFFFF]], np.uint32),
            settings=_settings(how),
            seen_BV=seen_1V,
        )
        self._rows, drawn = self._programs.join(
            self._rows,
            new,
            np.uint32(sampling.draw_index(read.prompt, copy)),
            np.int32(row),
            read.logits_1V,
            np.bool(how.num_logprobs > 0),
        )
        return reading.tokens_of(drawn, [how.num_logprobs])[0]

    def step(self) -> dict[int, Token]:
        """Writes one more token of each text."""
        self._take_away()
        self._make_room(self._demand())
        is_live_B = np.zeros(self._counts[self._count], bool)
        nums_top = [0] * len(is_live_B)
        for text in self._texts.values():
            is_live_B[text.row], nums_top[text.row] = True, text.num_top
            text.num_slots += 1
        self._rows, drawn = self._programs.step(self._rows, is_live_B, np.bool(any(nums_top)))
        found = reading.tokens_of(drawn, nums_top)
        return {number: found[text.row] for number, text in self._texts.items()}

    def remove(self, number: int) -> None:
        """Ends a text; its row is free at once."""
        del self._texts[number]

    def warm(self) -> None:
        """Compiles, and runs once, all that can occur; there must be no texts.

        An exact engine is from then on free to use each shape that gives the bits of the largest.
        """
        assert not self._texts
        self.reader.warm()
        self._warm_moves()
        different = set()
        for length in self._lengths if self._is_exact else self._lengths[:1]:
            # Nearly as long as a cache, since a short text has but zeros to add in a longer one.
            num = min(length, self.max_len) - _WARM_STEPS
            read = self.reader.begin(some_tokens(num, self._programs.vocab_size), None)
            while not read.is_done:
                self.reader.read(read)
            written = {}
            for shape in self._shapes:
                if shape[1] >= length:
                    self._move(*shape)
                    written[shape] = [self.add(0, read, 0, Sampling(0.0, num_logprobs=20), 0)]
                    written[shape] += [self.step()[0] for _ in range(_WARM_STEPS - 1)]
                    self.remove(0)
            expected = written[self._shapes[-1]]
            different |= {shape for shape, tokens in written.items() if tokens != expected}
        self.reader.prefixes.clear()
        if self._is_exact:
            self._usable = [shape for shape in self._shapes if shape not in different]
        self._move(*self._usable[0])

    def _warm_moves(self) -> None:
        """Compiles the ways from each shape to those beside it, and back."""
        row = self._programs.empty(1, self._lengths[0]).caches
        for num_slots in (self._lengths[-1], self._lengths[0]):
            row = self._programs.resized(row, num_slots)
        for count, num_slots in self._shapes:
            for shape in [
                (min(count + 1, len(self._counts) - 1), num_slots),
                (count, min(2 * num_slots, self._lengths[-1])),
            ]:
                self._move(count, num_slots)
                self._move(*shape)
                self._move(count, num_slots)

    def _demand(self, num_texts: int = 0, num_slots: int = 0) -> tuple[int, int]:
        """Says how many texts there are, and their slots, with so many more of such a size."""
        longest = max([num_slots, *(text.num_slots for text in self._texts.values())])
        return len(self._texts) + num_texts, longest

    def _smallest(self, num_texts: int, num_slots: int) -> tuple[int, int]:
        """Finds the shape that is computed fastest among those that are large enough."""
        enough = [
            (count, length)
            for count, length in self._usable
            if self._counts[count] >= num_texts and length >= num_slots
        ]
        return min(enough, key=lambda shape: self._counts[shape[0]] * shape[1])

    def _make_room(self, demand: tuple[int, int]) -> None:
        if demand[0] > self._counts[self._count] or demand[1] > self._num_slots:
            self._move(*self._smallest(*demand))

    def _take_away(self) -> None:
        """Takes rows and slots away that no text has needed for a while."""
        smallest = self._smallest(*self._demand())
        self._num_idle_steps += 1
        if smallest == (self._count, self._num_slots):
            self._num_idle_steps = 0
        elif self._num_idle_steps > _PATIENCE:
            self._move(*smallest)

    def _move(self, count: int, num_slots: int) -> None:
        """Gives the texts so many rows and slots, in steps that are compiled."""
        self._num_idle_steps = 0
        while self._count != count:
            is_more = count > self._count
            self._count += 1 if is_more else -1
            kept = list(range(self._counts[self._count - 1]))
            if not is_more:
                kept = [text.row for text in self._texts.values()]
                for row, text in enumerate(self._texts.values()):
                    text.row = row
            num_rows = self._counts[self._count]
            from_B = np.array((kept + [0] * num_rows)[:num_rows], np.int32)
            self._rows = self._programs.take(self._rows, from_B)
        caches = self._programs.resized(self._rows.caches, num_slots)
        self._rows, self._num_slots = self._rows.replace(caches=caches), num_slots


def _settings(how: Sampling) -> DrawSettings:
    number = lambda x: np.array([x], np.float32)
    return DrawSettings(
        number(how.temperature),
        np.array([how.top_k], np.int32),
        number(how.top_p),
        number(how.min_p),
        number(how.repetition_penalty),
    )
