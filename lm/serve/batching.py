"""Has one thread do what many requests ask for, together as far as they wait together."""

import concurrent.futures
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lm.generation.requests import NotServing, QueueFull

_MOST_ITEMS = 1024  # Of one call of the work: a request that comes meanwhile waits for it.


class Batches:
    """Takes the items of requests, and does the work on all that wait by one call.

    Args:
      work: items -> a result of each, in their order; called by this object's own thread alone.
      compile_all: compiles what the work is made of.
      max_waiting: items that may wait; a request that finds none waiting may have more.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Any]], Sequence[Any]],
        *,
        compile_all: Callable[[], None] = lambda: None,
        max_waiting: int,
    ):
        self._work, self._max_waiting = work, max_waiting
        self.warm = compile_all  # Before there are requests.
        self._changed = threading.Condition()
        self._waiting: list[tuple[Sequence[Any], concurrent.futures.Future]] = []
        self._num_active, self._num_calls, self._seconds = 0, 0, 0.0
        self._takes, self._is_open = True, True
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Any]) -> concurrent.futures.Future:
        """Takes items -> a future of their results; one that is cancelled is not worked on.

        Raises:
          QueueFull: too many wait.
          NotServing: it is draining or closed.
        """
        future: concurrent.futures.Future = concurrent.futures.Future()
        with self._changed:
            if not self._takes:
                raise NotServing("no more requests are taken")
            num_waiting = self._num_waiting()
            if num_waiting and num_waiting + len(items) > self._max_waiting:
                raise QueueFull(1.0 + self._seconds / max(self._num_calls, 1))
            self._waiting.append((items, future))
            self._changed.notify_all()
        return future

    def stats(self) -> dict[str, Any]:
        """Counts as `GenerationService.stats` does; a step is a call of the work."""
        with self._changed:
            return {
                "waiting": self._num_waiting(),
                "active": self._num_active,
                "slots": _MOST_ITEMS,
                "steps": self._num_calls,
                "seconds": self._seconds,
                "cache_bytes": 0,
            }

    def drain(self, seconds: float) -> None:
        """Takes no more, and waits at most so long for what is under way; refuses the rest."""
        with self._changed:
            self._takes = False
            is_done = lambda: not self._waiting and not self._num_active
            self._changed.wait_for(is_done, timeout=seconds)
            self._refuse()

    def close(self) -> None:
        """Ends the thread, once it has done what it is at."""
        with self._changed:
            self._takes = self._is_open = False
            self._refuse()
            self._changed.notify_all()
        self._thread.join()

    def _num_waiting(self) -> int:
        return sum(len(items) for items, future in self._waiting if not future.cancelled())

    def _refuse(self) -> None:
        for _, future in self._waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(NotServing("no more requests are taken"))
        self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or not self._is_open)
                if not self._is_open:
                    return
                taken = self._take()
            began = time.monotonic()
            items = [item for items, _ in taken for item in items]
            try:
                results = self._work(items) if items else []
                for its_items, future in taken:
                    future.set_result(results[: len(its_items)])
                    results = results[len(its_items) :]
            except Exception as error:  # Whoever waits is told, and the next may fare better.
                for _, future in taken:
                    if not future.done():
                        future.set_exception(error)
            with self._changed:
                self._num_active = 0
                self._num_calls += 1
                self._seconds += time.monotonic() - began
                self._changed.notify_all()

    def _take(self) -> list[tuple[Sequence[Any], concurrent.futures.Future]]:
        """Takes whole requests, in the order that they came in, as many as one call may have."""
        taken, num_items = [], 0
        while self._waiting:
            items, future = self._waiting[0]
            if taken and num_items + len(items) > _MOST_ITEMS:
                break
            self._waiting.pop(0)
            if future.set_running_or_notify_cancel():
                taken.append((items, future))
                num_items += len(items)
        self._num_active = num_items
        return taken
