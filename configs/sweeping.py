"""The language of sweeps: plain functions that return lists of overrides.

An override is a flat dict such as {"optimizer.peak_lr": 3e-3, "seed": 1}; its key "arg" holds
arguments of the config, such as "optimizer=muon". A distribution is a list of choices, or a tuple
of its kind and bounds, both of which can be drawn.
"""

import itertools
import math
import random as random_lib
from collections.abc import Iterable
from typing import Any

Overrides = dict[str, Any]
Space = dict[str, list | tuple[str, float, float]]


def grid(values: dict[str, list]) -> list[Overrides]:
    """Every combination; the last key changes fastest.

    grid({"a": [1, 2], "b": [3, 4]}) is a=1,b=3; a=1,b=4; a=2,b=3; a=2,b=4.
    """
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def zipped(values: dict[str, list]) -> list[Overrides]:
    """The first values together, then the second ones: zipped({"a": [1, 2], "b": [3, 4]}) is
    a=1,b=3; a=2,b=4.
    """
    lengths = {key: len(list_) for key, list_ in values.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"zipped needs lists of one length, and has {lengths}")
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def seeds(num: int, first: int = 0) -> list[Overrides]:
    """Consecutive seeds."""
    return [{"seed": seed} for seed in range(first, first + num)]


def product(*sweeps: Iterable[Overrides]) -> list[Overrides]:
    """Every override of the first with every one of the next, whose changes come fastest."""
    if any(isinstance(sweep, dict) for sweep in sweeps):
        raise ValueError("product takes lists of overrides; a search stands by itself")
    return [_merged(row) for row in itertools.product(*map(list, sweeps))]


def _merged(overrides: tuple[Overrides, ...]) -> Overrides:
    merged: Overrides = {}
    for override in overrides:
        for key, value in override.items():
            if key == "arg" and key in merged:
                value = f"{merged[key]},{value}"
            elif key in merged:
                raise ValueError(f"product: {key} is set to {merged[key]!r} and to {value!r}")
            merged[key] = value
    return merged


def uniform(low: float, high: float) -> tuple[str, float, float]:
    """A number between the two."""
    return _interval("uniform", low, high)


def log_uniform(low: float, high: float) -> tuple[str, float, float]:
    """A positive number whose logarithm is uniform."""
    if low <= 0:
        raise ValueError(f"log_uniform({low}, {high}) needs positive bounds")
    return _interval("log_uniform", low, high)


def integers(low: int, high: int) -> tuple[str, int, int]:
    """A whole number from `low` to `high`, both included."""
    return _interval("integers", low, high)


def _interval(kind: str, low: float, high: float) -> tuple[str, float, float]:
    if not low < high:
        raise ValueError(f"{kind}({low}, {high}) needs a low bound below its high one")
    return kind, low, high


def random(space: Space, num: int, seed: int) -> list[Overrides]:
    """Independent draws; more of them begin with the same ones."""
    generator = random_lib.Random(seed)
    return [{key: _draw(generator, d) for key, d in space.items()} for _ in range(num)]


def _draw(generator: random_lib.Random, distribution: list | tuple) -> Any:
    if isinstance(distribution, list):
        return generator.choice(distribution)
    kind, low, high = distribution
    if kind == "integers":
        return generator.randint(low, high)
    if kind == "uniform":
        return generator.uniform(low, high)
    assert kind == "log_uniform", kind
    return math.exp(generator.uniform(math.log(low), math.log(high)))


def search(
    space: Space,
    *,
    num_trials: int,
    metric: str = "eval/loss",
    mode: str = "min",
    sampler: str = "tpe",
    pruner: str = "halving",
    seed: int = 0,
) -> dict[str, Any]:
    """Trials that learn from those before them; see docs/sweeps.md.

    Args:
      space: a distribution by key.
      num_trials: finished and pruned ones together.
      metric: of metrics.jsonl, logged by every evaluation.
      mode: min or max.
      sampler: tpe or random.
      pruner: halving or none.
      seed: of the sampler.
    """
    return dict(
        space=space,
        num_trials=num_trials,
        metric=metric,
        mode=mode,
        sampler=sampler,
        pruner=pruner,
        seed=seed,
    )
