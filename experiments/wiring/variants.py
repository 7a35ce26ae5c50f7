"""Copies of a config in which some keys have other values; each says which keys these are."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import ml_collections

from experiments.wiring.pretraining import abstract_state, make_data, make_parts
from lm.errors import UserError
from lm.models import mup
from lm.settings import lookup

SHARDED_BY_TENSOR = ("num_heads", "num_kv_heads", "mlp_dim", "vocab_size")
# What a wider model has more of, for each way to grow.
_GROWING = {
    "num_heads": ("model_dim", "mlp_dim", "num_heads", "num_kv_heads"),
    "head_dim": ("model_dim", "mlp_dim", "head_dim"),
}


def changed(
    config: ml_collections.ConfigDict, changes: Mapping[str, Any]
) -> ml_collections.ConfigDict:
    """A copy with other values for these dotted keys, which it has."""
    config = config.copy_and_resolve_references()
    config.update_from_flattened_dict(changes)
    return config


def rows_of_devices(data: ml_collections.ConfigDict, num_devices: int) -> dict[str, int]:
    """Gives the changes that say the rows of a `data` block for so many devices.

    data.batch_size, .batch_size_per_device.
    """
    rows = data.batch_size_per_device * num_devices
    return {"data.batch_size": rows, "data.batch_size_per_device": 0} if rows else {}


def with_num_steps(
    config: ml_collections.ConfigDict, num_rows: int | None = None
) -> ml_collections.ConfigDict:
    """A copy with its steps and rows, also where the config says epochs, or rows per device.

    train.num_steps, .num_epochs, and those of `rows_of_devices`.

    Args:
      config: of a training experiment.
      num_rows: of an epoch; None for those of the packed corpus, which is opened where they are
        needed, after what can be checked without it.

    Raises:
      UserError: neither steps nor epochs are set, or both; see also `make_parts`,
        `abstract_state` and `make_data`.
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
            # A mistake is reported before a corpus is prepared, which may take hours.
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


def for_accelerators(
    config: ml_collections.ConfigDict, num_devices: int
) -> ml_collections.ConfigDict:
    """A copy for so many accelerators, here or not: those of `rows_of_devices`, model.dtype."""
    dtype = {"model.dtype": "bfloat16"} if config.model.dtype == "auto" else {}
    return changed(config, rows_of_devices(config.data, num_devices) | dtype)


def for_one_device(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy whose kernels and mesh exist on any machine, which change no shape and no FLOP.

    Those of `rows_of_devices`, model.attention, model.matmul, and all of parallel.
    """
    config = changed(config, rows_of_devices(config.data, jax.device_count()))
    config.model.update(attention="auto", matmul="plain")
    config.parallel.update(strategy="jit", data=1, fsdp=1, tensor=1, sequence=1)
    return config


def small_sizes(axis_sizes: Mapping[str, int]) -> dict[str, int]:
    """Gives the mesh of `for_mesh`: of each axis but `sequence` its least factor above 1."""
    least = lambda n: next((i for i in range(2, n + 1) if n % i == 0), 1)
    # `sequence` stays: it cuts one row, whose keys each device gathers whole.
    return {a: n if a == "sequence" else least(n) for a, n in axis_sizes.items()}


def for_mesh(
    config: ml_collections.ConfigDict, axis_sizes: Mapping[str, int], small: Mapping[str, int]
) -> ml_collections.ConfigDict:
    """A copy whose devices do on the mesh `small` what those of `config` do on `axis_sizes`.

    What `SHARDED_BY_TENSOR` names of the model, data.batch_size, eval.batch_size and
    .sample_tokens, and all of parallel.
    """
    config = config.copy_and_resolve_references()
    for name in SHARDED_BY_TENSOR:
        if name in config.model:
            config.model[name] = config.model[name] // axis_sizes["tensor"] * small["tensor"]
    few, many = (sizes["data"] * sizes["fsdp"] for sizes in (small, axis_sizes))
    # As many rows a device as before, so that its arrays are as large.
    config.data.batch_size = config.data.batch_size // many * few
    config.eval.update(batch_size=few, sample_tokens=0)
    config.parallel.update(small, strategy="jit")
    return config


def widened(
    config: ml_collections.ConfigDict, width: int, parametrisation: str
) -> ml_collections.ConfigDict:
    """The config of pretraining a model `width` times as wide; the config's own is the base shape.

    The widths of the model and those of its base, `mup.FIELDS`, and experiment.

    Raises:
      UserError: a family without rules of muP, or an unknown way to grow.
    """
    names = lookup("coordinates.grow", config.coordinates.grow, _GROWING)
    config = changed(config, {"experiment": "pretrain"})
    model = config.model
    if "mup_model_dim" not in model:
        raise UserError(f"model.name={model.name} has no rules of muP; choose gpt2 or llama")
    base = {name: model[name.removeprefix("mup_")] for name in mup.FIELDS}
    # Without a base shape, all 0, a family has the standard parametrisation.
    model.update(base if parametrisation == "muP" else dict.fromkeys(base, 0))
    model.update({name: width * model[name] for name in names if name in model})
    return config
