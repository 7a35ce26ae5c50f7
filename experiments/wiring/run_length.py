"""How many steps and rows a config asks for, whichever way it says so."""

import math

import jax
import ml_collections

from experiments.wiring.pretraining import abstract_state, make_data, make_parts
from experiments.wiring.variants import changed, rows_of_devices
from lm.errors import UserError


def with_num_steps(
    config: ml_collections.ConfigDict, num_rows: int | None = None
) -> ml_collections.ConfigDict:
    """A copy with `train.num_steps` and `data.batch_size`, whichever way the config says them.

    These are steps or `train.num_epochs`, and rows or `data.batch_size_per_device`.

    Args:
      config: of a training experiment.
      num_rows: of an epoch; None for those of the packed corpus, which is opened where they are
        needed, after what can be checked without it.

    Raises:
      UserError: not just one of the two is set; see also `make_parts`, `abstract_state` and
        `make_data`.
    """
    steps, epochs = config.train.num_steps, config.train.num_epochs
    if not (steps == 0 < epochs < math.inf or epochs == 0 < steps):
        raise UserError(
            f"train.num_steps={steps} and train.num_epochs={epochs}: make one of them positive "
            "and the other 0"
        )
    config = changed(config, rows_of_devices(config.data, jax.device_count()))
    if not steps:
        if num_rows is None:
            endless = {"train.num_steps": 2**31 - 1, "train.num_epochs": 0.0}
            abstract_state(make_parts(changed(config, endless)))
            prepared = make_data(config.data, config.tokenizer, config.model.vocab_size)
            num_rows = prepared.splits["train"].num_rows
        num_steps = epochs * num_rows / config.data.batch_size
        if not num_steps < 2**31:
            raise UserError(
                f"train.num_epochs={epochs} is {num_steps:.3g} steps, and a run has less than 2^31"
            )
        config.train.update(num_steps=math.ceil(num_steps), num_epochs=0.0)
    return config
