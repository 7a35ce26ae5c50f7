"""How many steps and rows a config asks for, whichever way it says so."""

import math
from collections.abc import Callable

import jax
import ml_collections

from experiments.wiring.pretraining import abstract_state, make_data, make_parts
from experiments.wiring.variants import changed
from lm.errors import UserError


def with_num_steps(
    config: ml_collections.ConfigDict, num_rows: Callable[[ml_collections.ConfigDict], int]
) -> ml_collections.ConfigDict:
    """A copy with `train.num_steps` and `data.batch_size`, whichever way the config says them.

    These are steps or `train.num_epochs`, and rows or `data.batch_size_per_device`.

    Args:
      config: of a training experiment.
      num_rows: asked for the rows of an epoch, where it is needed.

    Raises:
      UserError: not just one of the two is set.
    """
    steps, epochs = config.train.num_steps, config.train.num_epochs
    if not (steps == 0 < epochs < math.inf or epochs == 0 < steps):
        raise UserError(
            f"train.num_steps={steps} and train.num_epochs={epochs}: make one of them positive "
            "and the other 0"
        )
    config = config.copy_and_resolve_references()
    if config.data.batch_size_per_device:
        config.data.batch_size = config.data.batch_size_per_device * jax.device_count()
    if not steps:
        num_steps = epochs * num_rows(config) / config.data.batch_size
        if not num_steps < 2**31:
            raise UserError(
                f"train.num_epochs={epochs} is {num_steps:.3g} steps, and a run has less than 2^31"
            )
        config.train.update(num_steps=math.ceil(num_steps), num_epochs=0.0)
    return config


def rows_of_epoch(config: ml_collections.ConfigDict) -> int:
    """How many rows the training split has; what can be checked without it, is checked before.

    Raises:
      UserError: see `make_parts`, `abstract_state` and `make_data`.
    """
    config = changed(config, {"train.num_steps": 2**31 - 1, "train.num_epochs": 0.0})
    parts = make_parts(config)
    abstract_state(parts)
    prepared = make_data(config.data, config.tokenizer, config.model.vocab_size)
    return prepared.splits["train"].num_rows
