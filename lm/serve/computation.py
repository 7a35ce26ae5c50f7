"""Says what a request asks of a model that writes nothing, and how the answer is laid out."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from lm.serve.batching import Batches
from lm.serve.served_model import ServedModel


class Computation(NamedTuple):
    """What a request comes to.

    model: computes.
    batches: does the work.
    items: of it.
    answer: results, one of each item -> the body of the answer; it may raise Refusal.
    num_prompt: tokens that are read, where that is known beforehand; else 0.
    """

    model: ServedModel
    batches: Batches
    items: Sequence[Any]
    answer: Callable[[Sequence[Any]], dict[str, Any]]
    num_prompt: int = 0
