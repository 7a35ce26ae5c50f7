"""Evaluation: the same number for any batch size, because only sums are ever added."""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from lm.errors import UserError
from lm.losses.likelihood import Sums
from lm.models.parameters import Params

METRICS = ("eval/loss", "eval/perplexity", "eval/bits_per_byte")


def evaluate(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Iterable[Any],
    *,
    num_bytes: int | None,
) -> dict[str, float]:
    """Runs over every batch once.

    Args:
      params: what `eval_step` takes.
      eval_step: (params, batch) -> sums, jit-compiled, without dropout.
      batches: the whole split; the last one may hold empty rows, which weigh nothing.
      num_bytes: UTF-8 bytes of text that the split's predicted tokens stand for; None where these
        do not make up the text.

    Returns:
      "eval/loss" in nats a token, "eval/perplexity", and, given `num_bytes`, "eval/bits_per_byte",
      which does not depend on the tokenizer.

    Raises:
      UserError: nothing is predicted.
    """
    return _metrics(fetched(eval_step(params, batch) for batch in batches), num_bytes)


def evaluate_members(
    params: Params,
    eval_step: Callable[[Params, Any], Sums],
    batches: Iterable[Any],
    *,
    num_bytes: int | None,
) -> list[dict[str, float]]:
    """As `evaluate`, of several runs at once: params and sums are stacked on a first dimension."""
    all_sums = list(fetched(eval_step(params, batch) for batch in batches))
    num_members = len(all_sums[0]["nll"])
    of_one = lambda i: [{name: x[i] for name, x in sums.items()} for sums in all_sums]
    return [_metrics(of_one(i), num_bytes) for i in range(num_members)]


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
        metrics["eval/bits_per_byte"] = nll / math.log(2) / num_bytes
    return metrics


def evaluate_examples(
    eval_step: Callable[[Any], tuple[Sums, dict[str, jax.Array]]],
    batches: Iterable[tuple[np.ndarray, Any]],
) -> tuple[float, dict[int, dict[str, np.ndarray]]]:
    """The loss over all examples, and what the model says of each.

    Args:
      eval_step: batch -> sums, and outputs with a leading batch axis: a few numbers an example.
      batches: the index of each example of a batch, and the batch, whose other rows weigh nothing.

    Returns:
      The loss a target, NaN where none has any weight, and the outputs by the example's index.
    """
    outputs, all_sums = {}, []
    with_index = ((index, eval_step(batch)) for index, batch in batches)
    for index, (sums, rows) in fetched(with_index):
        all_sums.append(sums)
        outputs |= {int(i): {k: x[b] for k, x in rows.items()} for b, i in enumerate(index)}
    nll, num_tokens = _totals(all_sums)
    return nll / num_tokens if num_tokens else math.nan, outputs


def fetched(results: Iterable[Any]) -> Iterator[Any]:
    """Brings results to the host, each while the next one is being computed."""
    pending = None
    for result in results:
        if pending is not None:
            yield jax.device_get(pending)
        pending = result
    yield jax.device_get(pending)


def _totals(all_sums: Iterable[Sums]) -> tuple[float, float]:
    """Added exactly and in float64: a float32 total over many batches would lose the last ones."""
    all_sums = list(all_sums)
    total = lambda name: math.fsum(float(sums[name]) for sums in all_sums)
    return total("nll"), total("num_tokens")
