"""Evaluation: the same number for any batch size, because only sums are ever added."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax

from lm.losses import Sums
from lm.train.state import Params

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
    """
    # Added exactly and in float64: a float32 total over many batches would lose the last ones.
    fetched, pending = [], None
    for batch in batches:
        sums = eval_step(params, batch)
        if pending is not None:
            fetched.append(jax.device_get(pending))  # While the next one runs.
        pending = sums
    fetched.append(jax.device_get(pending))
    nll = math.fsum(float(sums["nll"]) for sums in fetched)
    loss = nll / math.fsum(float(sums["num_tokens"]) for sums in fetched)
    metrics = {
        "eval/loss": loss,
        "eval/perplexity": math.exp(min(loss, 700.0)),  # exp(710) is no longer a float64.
    }
    if num_bytes is not None:
        metrics["eval/bits_per_byte"] = nll / math.log(2) / num_bytes
    return metrics
