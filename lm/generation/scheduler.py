"""Decides which prompts are read, and which texts are written, at each turn of an engine.

It knows no arrays, no threads and no time: only numbers of tokens.
"""

import dataclasses
from collections import deque
from collections.abc import Hashable
from typing import Any, NamedTuple


@dataclasses.dataclass(eq=False)
class Job:
    """Stands for a request: a prompt, and the texts that are to be written behind it."""

    request: Any  # Not looked at.
    num_texts: int
    max_new_tokens: int  # Of each; 0 only reads the prompt.
    num_begun: int = 0
    written: dict[int, int] = dataclasses.field(default_factory=dict)  # Tokens, by text.


class Place(NamedTuple):
    """Says that a text begins, or is, in a slot."""

    slot: int
    job: Job
    text: int  # Which of its texts, from 0.


class Scheduler:
    """Queues jobs, first come, first served.

    A turn is: `begin_turn`; then prompts are read, by `reading` and `may_read`, as long as they
    take no more tokens together than a turn may, so that texts that are being written go on soon;
    of what was read, `place` begins texts; then each of `active` gets a token, told by `wrote`.

    Args:
      num_slots: texts at once.
      max_waiting: jobs that may wait, besides the one that is being read.
      tokens_a_turn: of prompts; a chunk that is longer is read alone.
    """

    def __init__(self, *, num_slots: int, max_waiting: int, tokens_a_turn: int):
        self._max_waiting, self._tokens_a_turn = max_waiting, tokens_a_turn
        self._waiting: deque[Job] = deque()
        self._read: Job | None = None
        self._is_read = False  # The whole prompt of that one.
        self._free = sorted(range(num_slots), reverse=True)  # The lowest is the last.
        self._active: dict[int, Place] = {}
        self._num_read = 0  # Tokens in this turn.

    @property
    def active(self) -> list[Place]:
        """Lists the texts that are being written."""
        return list(self._active.values())

    @property
    def num_waiting(self) -> int:
        """Counts jobs of which nothing was begun."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is left to do."""
        return not (self._waiting or self._read or self._active)

    @property
    def is_full(self) -> bool:
        """Whether no other job may wait."""
        return len(self._waiting) >= self._max_waiting

    def add(self, job: Job) -> None:
        """Lets a job wait; there must be room."""
        assert not self.is_full
        self._waiting.append(job)

    def begin_turn(self) -> None:
        """Lets as many tokens of prompts be read as a turn may."""
        self._num_read = 0

    def reading(self) -> Job | None:
        """Says whose prompt is to be read, which may be a new one if there is a slot for it."""
        if self._read is None and self._waiting and self._free:
            self._read, self._is_read = self._waiting.popleft(), False
        return None if self._is_read else self._read

    def may_read(self, num_tokens: int) -> bool:
        """Says whether so many more tokens fit into this turn, and counts them if so."""
        if self._num_read and self._num_read + num_tokens > self._tokens_a_turn:
            return False
        self._num_read += num_tokens
        return True

    def was_read(self) -> None:
        """Says that there is no more to read of the prompt."""
        self._is_read = True

    def place(self) -> tuple[Job | None, list[Place]]:
        """Begins texts of the job whose prompt was read, as far as slots are free.

        Until all have begun no other prompt is read.
        """
        job, begun = self._read, []
        if job is None or not self._is_read:
            return None, []
        while job.num_begun < job.num_texts and job.max_new_tokens and self._free:
            place = Place(self._free.pop(), job, job.num_begun)
            self._active[place.slot] = place
            job.written[place.text] = 0
            job.num_begun += 1
            begun.append(place)
        if job.num_begun == job.num_texts or not job.max_new_tokens:
            self._read, self._is_read = None, False
        return job, begun

    def wrote(self, slot: int, *, is_end: bool, is_token: bool) -> str | None:
        """Notes a token, and says why its text ends there, if it does; its slot is free then.

        Args:
          slot: of the text.
          is_end: whether something ended the text: "stop".
          is_token: whether there was a token, and not one that only says that the text ends.
        """
        _, job, text = self._active[slot]
        job.written[text] += is_token
        reason = "length" if job.written[text] == job.max_new_tokens else None
        reason = "stop" if is_end else reason
        if reason:
            self._release(slot)
        return reason

    def cancel(self, job: Job) -> list[Place]:
        """Forgets a job, and returns where its texts stood; their slots are free."""
        if job in self._waiting:
            self._waiting.remove(job)
        if job is self._read:
            self._read, self._is_read = None, False
        stood = [place for place in self._active.values() if place.job is job]
        for place in stood:
            self._release(place.slot)
        return stood

    def jobs(self) -> list[Job]:
        """Lists all that wait, are read or are written."""
        found: dict[Hashable, Job] = {id(job): job for job in self._waiting}
        if self._read is not None:
            found[id(self._read)] = self._read
        found |= {id(place.job): place.job for place in self._active.values()}
        return list(found.values())

    def _release(self, slot: int) -> None:
        del self._active[slot]
        self._free.append(slot)
        self._free.sort(reverse=True)
