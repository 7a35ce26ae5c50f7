"""What an engine is: three verbs that apply pure functions to sorted lines, and decide nothing.

A data set is a folder of shards; see `shards`. The functions are those of a module, or partials of
them, and are handed to other processes.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from lm.errors import UserError

T = TypeVar("T")
Lines = Iterable[bytes]


class Engine(Protocol):
    """Applies functions; the files that it writes depend on these and their inputs alone."""

    num_shards: int

    def sort(
        self, emit: Callable[[Any], Lines], tasks: Sequence[Any], target: pathlib.Path
    ) -> None:
        """Writes the lines that `emit` gives for each task, each in the shard of its id, sorted.

        Equal lines all stay. Neither the order of tasks nor what is in which changes a byte.
        """

    def map(
        self, apply: Callable[..., Lines], sources: Sequence[pathlib.Path], target: pathlib.Path
    ) -> None:
        """Writes for each shard what `apply` gives for the lines of this shard of each source.

        It gives lines of the same ids in the same order.
        """

    def fold(self, summarize: Callable[..., T], sources: Sequence[pathlib.Path]) -> list[T]:
        """Returns what `summarize` gives for the lines of each shard, shard by shard.

        It gives what JSON can hold, of which tuples may come back as lists.
        """


def check_numbers(**numbers: int) -> None:
    """Raises UserError for a number of the engine block that is not above 0."""
    for name, value in numbers.items():
        if value < 1:
            raise UserError(f"engine.{name}={value} must be at least 1")
