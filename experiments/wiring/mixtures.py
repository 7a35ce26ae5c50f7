"""From the blocks `data.sources` and `data.mixture`, where a config has them, to batches."""

from collections.abc import Mapping
from typing import Any

from lm.corpus import mixed_corpus, source_weights
from lm.corpus.batches import Batches, Corpus


def names(data: Mapping[str, Any]) -> list[str]:
    """Lists the sources of a `data` block; none where it is of one corpus."""
    return sorted(data["sources"]) if "sources" in data else []


def check(data: Mapping[str, Any], num_steps: int) -> None:
    """Raises UserError where the blocks cannot be those of a run of so many steps."""
    if "sources" in data:
        _, weights = mixed_corpus.read_blocks(**data)
        source_weights.check(weights, num_steps)


def make_batches(prepared: Corpus, *, batch_size: int, seed: int, num_steps: int) -> Batches:
    """The batches of a run of so many steps; of a mixture, in the order that it has in this run.

    Raises:
      UserError: too few rows for a batch; a source that would be seen more often than it may.
    """
    is_mixed = isinstance(prepared, mixed_corpus.MixedCorpus)
    mixture = prepared.mixture(num_steps, batch_size) if is_mixed else None
    return Batches(prepared, "train", batch_size=batch_size, seed=seed, mixture=mixture)
