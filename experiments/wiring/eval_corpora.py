"""Corpora beside the run's own validation split on which it is evaluated, each by its name."""

import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ml_collections

from experiments.cli import CORPUS_KEYS
from experiments.wiring import mixtures
from lm.corpus import preparation
from lm.errors import UserError
from lm.settings import call
from lm.system.cache import cache_folder
from lm.train import evaluation

_TAKEN = (evaluation.MACRO, *(metric.removeprefix("eval/") for metric in evaluation.METRICS))
# What a corpus has in common with the run's own, of the `data` block.
_OF_ROWS = ("seq_len", "add_bos", "add_eos", "on_error", "max_document_bytes")


def check(corpora: Mapping[str, Mapping[str, Any]], sources: Sequence[str] = ()) -> None:
    """Checks an `eval.corpora` block: its names, and that each says a source. Reads no data.

    Raises:
      UserError: a name that metrics have already, or a block with other keys.
    """
    for name, block in corpora.items():
        key = f"eval.corpora.{name}"
        if name in (*_TAKEN, *sources):  # The sources of a mixture have metrics, too.
            raise UserError(f"{key}: eval/{name} is a metric already; name the corpus otherwise")
        if not name.replace("_", "").isalnum():
            raise UserError(f"{key}: a name has letters, digits and _; name the corpus otherwise")
        if not isinstance(block, Mapping | ml_collections.ConfigDict) or set(block) != {
            *CORPUS_KEYS
        }:
            raise UserError(f"{key} must have the keys {', '.join(CORPUS_KEYS)}, and no other")
        if not block["source"]:
            raise UserError(f"{key}.source is not set; say where its text is, as data.source does")


def metrics_of(data: Mapping[str, Any], corpora: Iterable[str]) -> tuple[str, ...]:
    """Lists what evaluations give, as far as there are bits per byte; `data` is the block."""
    return evaluation.metrics_of([*mixtures.names(data), *corpora])


def check_best_metric(
    best_metric: str, reasons: Mapping[str, str], averaged: Iterable[str]
) -> None:
    """Raises UserError where the best metric is bits per byte that are not given.

    `reasons` says of each corpus why it has none, or ""; that of no name is the run's own split.
    Means are over those whose names are `averaged`.
    """
    name, _, metric = best_metric.removeprefix("eval/").rpartition("/")
    if metric != "bits_per_byte":
        return
    for of in averaged if name == evaluation.MACRO else [name]:
        if reason := reasons[of]:
            raise UserError(
                f"checkpoint.best_metric={best_metric} is not given here: {reason}; take "
                f"{best_metric.replace(metric, 'loss')}"
            )


def prepare(
    corpora: Mapping[str, Mapping[str, Any]],
    data: Mapping[str, Any],
    tokenizer: Mapping[str, Any],
    cache_dir: pathlib.Path | None = None,
) -> dict[str, preparation.Prepared]:
    """Opens corpora, which the first run prepares, by their names.

    Args:
      corpora: the `eval.corpora` block.
      data: the `data` block, of which all else is taken: rows of the same length and the same ends.
      tokenizer: the block of the run's own tokenizer, see `Prepared.tokenizer_block`.
      cache_dir: where they are prepared, by default where all data is.

    Raises:
      UserError: one of them cannot be read, or is empty; the error names it.
    """
    own = {key: x for key, x in data.items() if key in _OF_ROWS}
    where = dict(cache_dir=cache_dir or cache_folder("data"), only=("validation",))
    found = {}
    for name, block in corpora.items():
        try:
            settings = {**own, **block, "train": ""}
            found[name] = call(
                preparation.prepare, "data", settings, tokenizer={**tokenizer}, **where
            )
        except UserError as error:
            raise UserError(f"eval.corpora.{name}: {error}") from None
    return found
