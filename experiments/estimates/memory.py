"""Estimates what a training step would hold, from shapes alone."""

import jax
import jax.numpy as jnp
import ml_collections
import rich.table

from experiments.wiring import pretraining, variants
from lm.corpus.rows import abstract_rows
from lm.costs import memory
from lm.models import families
from lm.models.parameters import Params
from lm.objectives.batch import Objective
from lm.parallel.mesh import make_mesh, num_batch_shards
from lm.parallel.param_rules import params_sharding
from lm.train.step import TrainState


def micro_batch(batch_size: int, accumulate_steps: int, mesh: jax.sharding.Mesh) -> int:
    """Returns the rows that a device sees at once."""
    return batch_size // accumulate_steps // num_batch_shards(mesh)


def pretraining_bytes(
    config: ml_collections.ConfigDict,
    parts: pretraining.PretrainingParts,
    objective: Objective,
    abstract: TrainState,
) -> dict[str, int]:
    """Estimates from shapes what a device holds while it pretrains, in bytes by category."""
    one = dict.fromkeys(parts.mesh.shape, 1)
    of_device = pretraining.make_parts(variants.for_mesh(config, parts.mesh.shape, one), devices=1)
    key = jax.random.key(0)
    num_rows = micro_batch(config.data.batch_size, parts.accumulate_steps, parts.mesh)
    batch = jax.eval_shape(objective, abstract_rows(num_rows, config.data.seq_len), key)
    loss = lambda params, batch: of_device.loss_fn(params, batch, key)["loss"]
    params = pretraining.abstract_state(of_device).params
    held = held_bytes(parts.accumulate_steps, abstract, {}, loss, params, batch)
    if parts.mesh.shape["fsdp"] > 1:
        held["gathered"] = gathered_bytes(parts)
    return held


def held_bytes(
    accumulate_steps: int, abstract: TrainState, frozen: Params, loss, params: Params, batch
) -> dict[str, int]:
    """Counts bytes a device by category.

    `loss`, `params` and `batch` are as large as one device computes with them.
    """
    trained = memory.tree_bytes(abstract.params)
    return {
        "parameters": trained + memory.tree_bytes(frozen),
        "optimiser state": memory.tree_bytes(abstract.opt_state),
        # Twice while micro-batches are added up: the sum, and what is added.
        "gradients": trained * (1 if accumulate_steps == 1 else 2),
        "activations": memory.saved_activation_bytes(loss, params, batch),
    }


def memory_table(held: dict[str, int]) -> rich.table.Table:
    table = rich.table.Table("memory a device", "MB")
    table.columns[1].justify = "right"
    for name, num_bytes in (held | {"all": sum(held.values())}).items():
        table.add_row(name, f"{num_bytes / 1e6:,.1f}")
    return table


def whole_bytes(parts: pretraining.PretrainingParts) -> tuple[int, int]:
    """Counts float32 bytes of parameters outside and inside the layers, whole over `fsdp`."""
    sizes = dict(parts.mesh.shape)
    sizes |= dict(data=sizes["data"] * sizes["fsdp"], fsdp=1)  # As if `fsdp` cut nothing.
    mesh = make_mesh(strategy="jit", devices=parts.mesh.size, **sizes)
    shapes = families.param_shapes(parts.model)
    bytes_of = {False: 0, True: 0}
    flat = jax.tree_util.tree_flatten_with_path(shapes)[0]
    cuts = jax.tree.leaves(params_sharding(shapes, mesh))
    for (path, x), cut in zip(flat, cuts, strict=True):
        is_layer = "layers" in jax.tree_util.keystr(path, simple=True, separator="/").split("/")
        bytes_of[is_layer] += memory.tree_bytes(
            jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=cut)
        )
    return bytes_of[False], bytes_of[True]


def gathered_bytes(parts: pretraining.PretrainingParts) -> int:
    """Counts what `fsdp` has gathered at once: all outside the layers, and one layer or all."""
    outside, layers = whole_bytes(parts)
    c = parts.model.config
    itemsize = jnp.dtype(c.dtype).itemsize
    # Without rematerialisation the compiler gathers each layer once for both passes, and holds all.
    # In a half-precision type those copies are residuals, and so among the activations already.
    holds_all = c.remat == "none" and itemsize == 4
    return outside + layers * itemsize // 4 // (1 if holds_all else c.num_layers)
