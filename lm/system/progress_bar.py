"""Shows how a corpus is prepared: a moving bar on a terminal, plain lines elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import rich.console
import rich.progress

from lm.system import safe_text

T = TypeVar("T")
_CONSOLE = rich.console.Console(stderr=True, soft_wrap=True, highlight=False)


def say(line: str) -> None:
    """Prints one line."""
    _CONSOLE.print(safe_text.one_line(line), markup=False)


def track(documents: Iterable[T], what: str, num_bytes: Callable[[T], int]) -> Iterator[T]:
    """Passes documents on, or parts of them, and shows how many; a line with totals stays."""
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    start, count, size, shown = time.perf_counter(), 0, 0, 0
    with rich.progress.Progress(
        *columns, console=_CONSOLE, disable=not _CONSOLE.is_terminal, transient=True
    ) as bar:
        task = bar.add_task(what, total=None)
        for document in documents:
            yield document
            count += not document.goes_on
            size += num_bytes(document)
            if size - shown > 2**16:  # Drawing for each short document would cost more than it.
                bar.update(task, completed=size)
                shown = size
    seconds = time.perf_counter() - start
    say(f"{what}: {count:,} documents, {size / 1e6:.1f} MB in {seconds:.1f} s")


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Says what takes time, and afterwards how much it took."""
    start = time.perf_counter()
    with _CONSOLE.status(what) if _CONSOLE.is_terminal else contextlib.nullcontext():
        yield
    say(f"{what}: {time.perf_counter() - start:.1f} s")
