"""Answers generation requests of many threads, by one thread that owns the engine."""

import dataclasses
import secrets
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from lm.errors import UserError
from lm.generation.engine import Engine
from lm.generation.reading import Reading, Token
from lm.generation.requests import (
    Event,
    FinishEvent,
    GenerationRequest,
    NotServing,
    PromptEvent,
    QueueFull,
    TokenEvent,
)
from lm.generation.scheduler import Job, Place, Scheduler
from lm.generation.text_stream import Stops, TextStream
from lm.tokenizers.tokenizers import Tokenizer

Emit = Callable[[Event], None]


@dataclasses.dataclass(eq=False)
class _Work:
    """Holds a request and how far it is."""

    request: GenerationRequest
    emit: Emit
    seed: int
    streams: list[TextStream]  # Of each choice.
    unfinished: set[int]
    reading: Reading | None = None
    started_seconds: float = 0.0


class Handle:
    """Stands for a request that was taken."""

    def __init__(self, service: "GenerationService", job: Job):
        self._service, self._job = service, job

    def cancel(self) -> None:
        """Ends it within a step: each choice that has not finished does so as "cancelled"."""
        self._service._cancel(self._job)


class GenerationService:
    """See `lm.generation.requests` for what it does.

    Args:
      engine: what writes; nobody else may use it.
      tokenizer: of its model.
      max_waiting: requests that may wait.
      tokens_a_turn: of prompts that are read between two steps; a longer chunk is read alone.
    """

    def __init__(
        self, engine: Engine, tokenizer: Tokenizer, *, max_waiting: int, tokens_a_turn: int = 512
    ):
        self._engine, self._tokenizer = engine, tokenizer
        self._scheduler = Scheduler(
            num_slots=engine.num_texts, max_waiting=max_waiting, tokens_a_turn=tokens_a_turn
        )
        self._in_use = threading.Lock()  # Of the engine; held for a turn.
        self._changed = threading.Condition()  # Guards the scheduler and all below.
        self._cancelled: list[Job] = []
        self._is_open, self._is_closed = True, False
        self._is_busy = False  # The thread works, or tells of what it has done.
        self._end_all: str | None = None  # The reason why all that is left must end.
        self._error: BaseException | None = None
        self._counts = {"tokens": 0, "prompt_tokens": 0, "steps": 0}
        self._seconds = 0.0
        self._mean_seconds = 1.0  # That a request takes.
        self._thread = threading.Thread(target=self._run, name="generation", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, emit: Emit) -> Handle:
        """Takes a request; see `lm.generation.requests`.

        Raises:
          QueueFull: too many wait.
          NotServing: nothing is taken any more.
          UserError: the model cannot do this.
        """
        self._engine.check(request.prompt, request.max_new_tokens, request.sampling)
        if request.max_new_tokens < 0:
            raise UserError(f"max_new_tokens={request.max_new_tokens} must not be negative")
        if request.num_choices < 1:
            raise UserError(f"num_choices={request.num_choices} must be at least 1")
        if request.echo_logprobs and self._engine.has_encoder:
            raise UserError("echo_logprobs: an encoder gives no likelihood to what it reads")
        seed = request.sampling.seed
        work = _Work(
            request,
            emit,
            secrets.randbits(64) if seed is None else seed,
            [self._stream(request) for _ in range(request.num_choices)],
            set(range(request.num_choices)),
        )
        job = Job(work, request.num_choices, request.max_new_tokens)
        with self._changed:
            if not self._is_open or self._error is not None:
                raise NotServing(repr(self._error) if self._error else "it is shutting down")
            if self._scheduler.is_full:
                wait = self._mean_seconds * self._scheduler.num_waiting / self._engine.num_texts
                raise QueueFull(max(1.0, wait))
            self._scheduler.add(job)
            self._changed.notify_all()
        return Handle(self, job)

    def _stream(self, request: GenerationRequest) -> TextStream:
        before = request.prompt if request.goes_on else ()
        return TextStream(self._tokenizer, before, Stops(request.stop_ids, request.stops))

    def warm(self) -> None:
        """Compiles all that can occur; nothing may be written meanwhile."""
        with self._in_use:
            self._engine.warm()

    def stats(self) -> dict[str, Any]:
        """Counts requests that wait, texts that are written, and what was done since the start."""
        with self._changed:
            return {
                "waiting": self._scheduler.num_waiting,
                "active": len(self._scheduler.active),
                "slots": self._engine.num_texts,
                "seconds": self._seconds,  # Of all turns.
                "cache_bytes": self._engine.cache_bytes,
                **self._counts,
            }

    def drain(self, seconds: float) -> None:
        """Takes no more; waits until all is written, or so long, and ends the rest ("length")."""
        with self._changed:
            self._is_open = False
            if not self._changed.wait_for(self._is_done, seconds):
                self._end("length")

    def close(self) -> None:
        """Ends all that is left ("cancelled"), and the thread."""
        with self._changed:
            self._is_open, self._is_closed = False, True
            self._end("cancelled")
        self._thread.join()

    def _is_done(self) -> bool:
        return not self._is_busy and (self._scheduler.is_idle or self._error is not None)

    def _end(self, reason: str) -> None:
        self._end_all = reason
        self._changed.notify_all()
        self._changed.wait_for(self._is_done)

    def _cancel(self, job: Job) -> None:
        with self._changed:
            self._cancelled.append(job)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            while self._wait():
                with self._in_use:
                    started_seconds = time.monotonic()
                    self._turn()
                    self._seconds += time.monotonic() - started_seconds
        except BaseException as error:  # Those who wait must hear of it, whatever it is.
            traceback.print_exc()
            with self._changed:
                self._error = error
                jobs = self._scheduler.jobs()
            for job in jobs:
                self._finish(job, "error")
        finally:
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()

    def _wait(self) -> bool:
        """Waits for something to do, and ends what has to end; False to end the thread."""
        with self._changed:
            self._is_busy = False
            self._changed.notify_all()
            has_work = lambda: self._cancelled or self._is_closed or not self._scheduler.is_idle
            self._changed.wait_for(has_work)
            self._is_busy = True
            ending = [(job, "cancelled") for job in self._cancelled]
            self._cancelled = []
            if self._end_all:
                ending += [(job, self._end_all) for job in self._scheduler.jobs()]
            for job, _ in ending:
                for place in self._scheduler.cancel(job):
                    self._engine.remove(place.slot)
            is_over = self._is_closed and self._scheduler.is_idle
        for job, reason in ending:
            self._finish(job, reason)
        return not is_over

    def _finish(self, job: Job, reason: str) -> None:
        """Ends all choices that have not finished."""
        for choice in sorted(job.request.unfinished):
            self._tell(job, FinishEvent(choice, job.request.streams[choice].finish(), reason))
        job.request.unfinished.clear()

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.request.emit(event)
        except Exception:  # A mistake of whoever asked must not end what others wait for.
            traceback.print_exc()
            self._cancel(job)

    def _turn(self) -> None:
        """Reads prompts, as many as a turn may, and writes a token of each text."""
        with self._changed:
            self._scheduler.begin_turn()
        self._place()
        while self._read_chunk():
            self._place()
        active = self._scheduler.active  # Only this thread changes which these are.
        if active:
            tokens = self._engine.step()
            self._counts["steps"] += 1
            for place in active:
                self._wrote(place, tokens[place.slot])

    def _read_chunk(self) -> bool:
        """Reads a chunk of a prompt; False where there is none, or no time in this turn."""
        with self._changed:
            job = self._scheduler.reading()
        if job is None:
            return False
        work, reader = job.request, self._engine.reader
        if work.reading is None:
            work.started_seconds = time.monotonic()
            wanted = work.request.sampling.num_logprobs if work.request.echo_logprobs else None
            num_context = work.request.num_context
            work.reading = reader.begin(work.request.prompt, wanted, num_context)
        num = reader.next_len(work.reading)
        if not self._scheduler.may_read(num):
            return False
        reader.read(work.reading)
        self._counts["prompt_tokens"] += num
        if work.reading.is_done:
            with self._changed:
                self._scheduler.was_read()
            if work.request.echo_logprobs:
                self._tell(job, _told_of_prompt(work.reading))
        return True

    def _place(self) -> None:
        """Begins texts of a prompt that was read."""
        with self._changed:
            job, places = self._scheduler.place()
        for place in places:
            work = job.request
            how = work.request.sampling
            token = self._engine.add(place.slot, work.reading, place.text, how, work.seed)
            self._wrote(place, token)
        if job is not None and job.num_begun == job.num_texts:
            job.request.reading = None  # Its caches are no longer needed.
        if job is not None and not job.max_new_tokens:
            self._finish(job, "length")

    def _wrote(self, place: Place, token: Token) -> None:
        """Tells of a token, and of the end of its text."""
        slot, job, choice = place
        work, stream = job.request, job.request.streams[choice]
        is_stop_id = token.token in work.request.stop_ids
        text = stream.push(token.token)
        with self._changed:
            reason = self._scheduler.wrote(slot, is_end=stream.stopped, is_token=not is_stop_id)
            if reason:
                self._engine.remove(slot)
        told = TokenEvent(choice, token.token, text, token.log_prob, token.top)
        if not is_stop_id:
            self._counts["tokens"] += 1
            self._tell(job, told)
        if reason:
            held_back = (text if is_stop_id else "") + stream.finish()
            work.unfinished.discard(choice)
            end = dataclasses.replace(told, text="") if is_stop_id else None
            self._tell(job, FinishEvent(choice, held_back, reason, end))
        if not work.unfinished:
            seconds = time.monotonic() - work.started_seconds
            self._mean_seconds += 0.1 * (seconds - self._mean_seconds)


def _told_of_prompt(reading: Reading) -> PromptEvent:
    num_context = reading.num_context
    scores = reading.scores[num_context - len(reading.prompt) :]
    log_probs = (*[None] * num_context, *(score.log_prob for score in scores))
    return PromptEvent(log_probs, (*[()] * num_context, *(score.top for score in scores)))
