"""Evaluation: the same number for any batch size, because only sums are ever added."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lm.errors import UserError
from lm.losses.likelihood import Sums
from lm.models.parameters import Params

METRICS = ("eval/loss", "eval/perplexity", "eval/bits_per_byte")
MACRO = "macro"  # The plain mean over several corpora has this in place of a name.


def evaluate(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Iterable[Any],
    *,
    num_bytes: int | None,
) -> dict[str, float]:
    """Evaluates a language model on every batch once.

    Args:
      params: what `eval_step` takes.
      eval_step: (params, batch) -> sums, jit-compiled, without dropout.
      batches: the whole split; the last one may hold empty rows, which weigh nothing.
      num_bytes: UTF-8 bytes of text that the split's predicted tokens stand for; None where these
        do not make up the text.

    Returns "eval/loss" in nats a token, "eval/perplexity", and, given `num_bytes`,
    "eval/bits_per_byte", which does not depend on the tokenizer. Raises UserError where nothing is
    predicted.
    """
    return _metrics(fetched(eval_step(params, batch) for batch in batches), num_bytes)


def evaluate_sources(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Mapping[str, Iterable[Any]],
    *,
    num_bytes: Mapping[str, int | None],
) -> dict[str, float]:
    """Does as `evaluate` for all of several corpora together, and for each by its name.

    Returns what `evaluate` does, "eval/NAME/loss" and so on of each, and the means of `beside`.
    A corpus of the name "" stands alone, and has no other metrics.
    """
    return _metrics_by_name(_sums_by_name(params, eval_step, batches), num_bytes)


def evaluate_members(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Mapping[str, Iterable[Any]],
    *,
    num_bytes: Mapping[str, int | None],
) -> list[dict[str, float]]:
    """Does as `evaluate_sources` for runs whose params and sums are stacked in front."""
    by_name = _sums_by_name(params, eval_step, batches)
    num_members = len(next(iter(by_name.values()))[0]["nll"])
    member_sums = lambda all_sums, i: [{k: x[i] for k, x in sums.items()} for sums in all_sums]
    return [
        _metrics_by_name({name: member_sums(s, i) for name, s in by_name.items()}, num_bytes)
        for i in range(num_members)
    ]


def metrics_of(names: Iterable[str]) -> tuple[str, ...]:
    """Lists what `evaluate_sources` gives, as far as there are bits per byte."""
    each = [metric.replace("/", f"/{name}/") for name in names for metric in METRICS]
    means = [f"eval/{MACRO}/loss", f"eval/{MACRO}/bits_per_byte"] if each else []
    return (*METRICS, *each, *means)


def _sums_by_name(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Mapping[str, Iterable[Any]],
) -> dict[str, list[Sums]]:
    return {
        name: list(fetched(eval_step(params, batch) for batch in of_one))
        for name, of_one in batches.items()
    }


def _metrics_by_name(
    sums: Mapping[str, list[Sums]], num_bytes: Mapping[str, int | None]
) -> dict[str, float]:
    total = None if None in num_bytes.values() else sum(num_bytes.values())
    found = _metrics(itertools.chain(*sums.values()), total)
    if "" in sums:
        return found
    by_name = {name: _metrics(of_one, num_bytes[name]) for name, of_one in sums.items()}
    return beside(found, by_name)


def beside(
    own: Mapping[str, float], by_name: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Adds the metrics of corpora, each by its name, and their plain means.

    {"eval/loss": 2.5}, {"a": {"eval/loss": 1.0}, "b": {"eval/loss": 3.0}} ->
      {"eval/loss": 2.5, "eval/a/loss": 1.0, "eval/b/loss": 3.0, "eval/macro/loss": 2.0}

    There is no mean of perplexities, and none of what one of them lacks. If there are corpora to
    add, means that are there already go: a mean is over these alone.
    """
    if not by_name:
        return dict(own)
    found = {key: value for key, value in own.items() if not key.startswith(f"eval/{MACRO}/")}
    for name, metrics in by_name.items():
        found |= {key.replace("/", f"/{name}/"): value for key, value in metrics.items()}
    for key in ("eval/loss", "eval/bits_per_byte"):
        values = [metrics[key] for metrics in by_name.values() if key in metrics]
        if len(values) == len(by_name):
            found[key.replace("/", f"/{MACRO}/")] = sum(values) / len(values)
    return found


def _metrics(all_sums: Iterable[Sums], num_bytes: int | None) -> dict[str, float]:
    nll, num_tokens = _totals(all_sums)
    if not num_tokens:
        raise UserError(
            "no token of the validation split is predicted, so that there is no loss; give "
            "data.validation more text"
        )
    loss = nll / num_tokens
    metrics = {
        "eval/loss": loss,
        "eval/perplexity": math.exp(min(loss, 700.0)),  # exp(710) is no longer a float64.
    }
    if num_bytes is not None:
        metrics["eval/bits_per_byte"] = nll / math.log(2) / num_bytes  # Nats to bits.
    return metrics


def evaluate_examples(
    eval_step: Callable[[Any], tuple[Sums, dict[str, jax.Array]]],
    batches: Iterable[tuple[Any, Any]],
) -> tuple[float, list[tuple[Any, dict[str, np.ndarray]]]]:
    """Returns the loss over all examples, and the model's outputs for each batch.

    The loss is a mean over targets, NaN where none has any weight.

    Args:
      eval_step: batch -> sums, and outputs with a leading batch axis: a few numbers an example.
      batches: what is known of each batch, which comes with its outputs, and the batch.
    """
    outputs, all_sums = [], []
    for known, (sums, rows) in fetched((known, eval_step(batch)) for known, batch in batches):
        all_sums.append(sums)
        outputs.append((known, rows))
    nll, num_tokens = _totals(all_sums)
    return nll / num_tokens if num_tokens else math.nan, outputs


def fetched(results: Iterable[Any]) -> Iterator[Any]:
    """Brings results to the host, each while the next one is being computed."""
    # A pair is there once its second result was dispatched, which the device computes meanwhile.
    for pending, _ in itertools.pairwise(itertools.chain(results, [None])):
        yield jax.device_get(pending)


def _totals(all_sums: Iterable[Sums]) -> tuple[float, float]:
    all_sums = list(all_sums)
    # Exact, in float64: a float32 total over many batches would lose what the last ones add.
    total = lambda name: math.fsum(float(sums[name]) for sums in all_sums)
    return total("nll"), total("num_tokens")
