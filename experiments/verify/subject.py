"""What `verify` checks: a config, shrunk, with the very functions that its runs are made of."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from experiments.experiment import StepBatches
from experiments.wiring import variants
from lm.models import factory
from lm.models.parameters import Params
from lm.parallel.mesh import make_mesh, num_batch_shards
from lm.train.step import StepFn, TrainState

NUM_STEPS = 100  # In which a batch is overfit.
# Gradients in place of updates: what a rule such as Adam makes of a gradient that is nearly 0 is
# all rounding. At this rate the parameters that they are taken from do not count beside them.
PLAIN = optax.sgd(1e6)
INIT_FROM = "init_from is set: a trained model knows something"

_NUM_MICRO_BATCHES = 2
# Peak rates that suit a model this small and steps this few, by the name of the rule.
_PEAK_LR = {"adamw": 1e-2, "lion": 6e-3, "adafactor": 2e-1, "muon": 2e-2}
_NO_CUTS = dict(data=1, fsdp=1, tensor=1, sequence=1)

Devices = tuple[jax.Device, ...]


class StepUnderTest(NamedTuple):
    """One way to compute the steps of a config."""

    abstract: TrainState  # Shapes and shardings of the state.
    first_state: Callable[[], TrainState]  # A new copy each time, since a step donates it.
    step: StepFn
    place: Callable[[Any], Any]  # Places a batch; see `compile.compile_step`.


@dataclasses.dataclass(frozen=True)
class Variation:
    """What a step under test has otherwise than the config."""

    devices: Devices  # Of its mesh; for one alone nothing is cut.
    accumulate_steps: int = _NUM_MICRO_BATCHES
    flip_scan: bool = False  # Scans the layers where the config unrolls them, and vice versa.
    plain: bool = False  # Steps down the gradient at a high rate, see `PLAIN`, without dropout.
    dropout: bool = True  # Whether there is any that the config asks for.
    same_draws: bool = False  # The objective draws the same at every step.


@dataclasses.dataclass(frozen=True, eq=False)
class ShrunkRun:
    """What the checks need of a config, be it of pretraining or of fine-tuning."""

    home: Devices  # The device of all checks but one.
    mesh: Devices  # The devices of that one.
    trainer: Callable[[Variation], StepUnderTest]  # See `kept`.
    make_batches: Callable[[], StepBatches]  # Those of training, anew.
    uneven: Any  # A batch whose micro-batches hold unequal numbers of targets.
    evaluate: Callable[[Params, int], dict[str, float]]  # By the batch size.
    num_evaluated: Sequence[int]  # Rows of each split that is evaluated by itself.
    # What some documents or examples cost beside others, and alone, in nats; or why none is known.
    costs: Callable[[Params], tuple[np.ndarray, np.ndarray] | str]
    chance: float | str  # The loss of a model that knows nothing, in nats; or why there is none.
    not_overfit: str  # Why no batch can be overfit; "" where one can.


def num_needed(parallel: ml_collections.ConfigDict) -> int:
    """Counts the devices that a config's mesh has at least."""
    return math.prod(parallel[axis] for axis in _NO_CUTS if parallel[axis] > 0)


def mesh_settings(parallel: ml_collections.ConfigDict) -> tuple[dict[str, int], int]:
    """Gives the axes of the mesh that is checked, and how many devices fill it."""
    sizes, needed = {axis: parallel[axis] for axis in _NO_CUTS}, num_needed(parallel)
    if sizes == _NO_CUTS:  # One device alone would check nothing.
        sizes["data"] = -1
    # An axis of -1 gets two devices or more; needed -> in all: 1 -> 4, 2 -> 4, 3 -> 6, 4 -> 8.
    return sizes, needed * max(2, 4 // needed) if -1 in sizes.values() else needed


def shrunk(config: ml_collections.ConfigDict, mesh: Devices) -> ml_collections.ConfigDict:
    """Makes model, rows and batches as small as the config's mesh allows, and a rate for them.

    Sizes, dtype and kernel of the model, the axes of parallel, rows of data and eval, the length in
    train, and rate and warmup of optimizer.

    Raises:
      UserError: no such mesh can be made of these devices.
    """
    config = config.copy_and_resolve_references()
    config.parallel.update(mesh_settings(config.parallel)[0])
    grid = make_mesh(**config.parallel, devices=mesh)
    tensor, rows = grid.shape["tensor"], num_batch_shards(grid)
    model, heads = config.model, 2 * tensor
    if "num_kv_heads" in model:  # Heads share keys and values here if they do there.
        model.num_kv_heads = heads if model.num_kv_heads == model.num_heads else tensor
    model.update(
        num_layers=2,
        num_heads=heads,
        head_dim=min(model.head_dim, 16),
        model_dim=multiple(32, grid.shape["fsdp"]),
        mlp_dim=multiple(64, tensor),
        dtype="float32",
    )
    if "window" in model:
        model.window = min(model.window, 16)
    on_cpu = jax.default_backend() == "cpu"
    # The checks are in float32, for which the fast kernels of accelerators are not made.
    if not on_cpu or model.attention not in ("einsum", "blocked"):
        model.attention = "auto" if on_cpu else "einsum"
    batch_size = multiple(8, _NUM_MICRO_BATCHES * rows)
    config.data.update(batch_size=batch_size, batch_size_per_device=0)
    config.eval.batch_size = batch_size
    config.train.update(num_steps=NUM_STEPS, num_epochs=0.0)
    rate = _PEAK_LR[config.optimizer.name]
    config.optimizer.update(peak_lr=rate, warmup_steps=10, warmup_share=0.0)
    return config


def multiple(number: int, of: int) -> int:
    """Rounds up to a multiple."""
    return -(-number // of) * of


def varied(config: ml_collections.ConfigDict, variant: Variation) -> ml_collections.ConfigDict:
    """Changes a shrunken config into that of a variant, whose parameters are random.

    init_from, train.accumulate_steps, model.scan_layers and .dropout, the axes of parallel.
    """
    # The parameters of init_from are those of a larger model.
    changes = {"init_from": "", "train.accumulate_steps": variant.accumulate_steps}
    if "only" in config.train:  # Which rows are new, that folder alone says.
        changes["train.only"] = ""
    config = variants.changed(config, changes)
    scans = factory.scans_layers(config.model.scan_layers, jax.default_backend())
    with config.model.ignore_type():  # It may be "auto".
        config.model.scan_layers = scans ^ variant.flip_scan
    if len(variant.devices) == 1:
        config.parallel.update(_NO_CUTS)
    if "dropout" in config.model and not variant.dropout:
        config.model.dropout = 0.0
    return config


def kept(*, has_dropout: bool, draws: bool) -> Callable[[Callable], Callable]:
    """Decorates what makes a step, so that variations that come to the same share one.

    `has_dropout` and `draws` say whether the config has dropout, and an objective that draws.
    """

    def keep(make: Callable[[Variation], StepUnderTest]) -> Callable[[Variation], StepUnderTest]:
        made = functools.cache(make)
        return lambda variant: made(
            dataclasses.replace(
                variant,
                dropout=variant.dropout and has_dropout and not variant.plain,
                same_draws=variant.same_draws and draws,
            )
        )

    return keep


def copied(state: TrainState) -> TrainState:
    """Copies a state into other buffers, which may be donated."""
    return jax.tree.map(jnp.copy, state)
