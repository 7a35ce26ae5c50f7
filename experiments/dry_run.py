"""Looks without training: what a config would build, and what a step sees."""

import jax
import ml_collections
import numpy as np
import rich
import rich.table

from experiments import build
from lm.data.batches import Batches
from lm.data.show import render
from lm.errors import UserError
from lm.train import memory


def run(config: ml_collections.ConfigDict) -> None:
    """Prints parameters by block, FLOPs a token, memory a device, and the first batch, decoded."""
    config = build.with_num_steps(config)
    parts = build.make_parts(config)
    abstract = build.abstract_state(parts)
    rich.print(_parameter_table(abstract))
    flops = build.flops_per_token(parts, abstract, config.data.seq_len)
    tokens = config.data.batch_size * config.data.seq_len
    print(f"\n{flops:.4g} training FLOPs a token, {flops * tokens:.4g} a step of {tokens:,} tokens")
    rich.print(_memory_table(config, parts, abstract))
    prepared = build.make_data(config, parts.model.config)
    _show(config, prepared, step=0)


def show_batch(config: ml_collections.ConfigDict, step: int) -> None:
    """Prints what training step `step` sees; the first one is 1."""
    config = build.with_num_steps(config)
    if not 1 <= step <= config.train.num_steps:
        raise UserError(
            f"--show_batch={step} is not a step of this run: 1 to {config.train.num_steps}"
        )
    parts = build.make_parts(config)
    _show(config, build.make_data(config, parts.model.config), step - 1)


def _show(config: ml_collections.ConfigDict, prepared, step: int) -> None:
    batches = Batches(prepared, "train", batch_size=config.data.batch_size, seed=config.seed)
    rows = batches.batch_at(step)
    batch = build.OBJECTIVES[config.objective.kind](rows)
    print(f"\nstep {step + 1} sees rows {batches.rows_at(step).tolist()}")
    rich.print(render(rows, prepared.tokenizer, np.asarray(batch.weights_BL)))


def _parameter_table(abstract) -> rich.table.Table:
    table = rich.table.Table("block", "shape", "parameters", title="parameters")
    for path, x in jax.tree_util.tree_flatten_with_path(abstract.params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table.add_row(name, " x ".join(map(str, x.shape)), f"{build.num_params(x):,}")
    table.add_section()
    for name, block in abstract.params.items():
        table.add_row(name, "", f"{build.num_params(block):,}")
    table.add_section()
    table.add_row("all", "", f"{build.num_params(abstract.params):,}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _memory_table(config, parts: build.Parts, abstract) -> rich.table.Table:
    """Bytes a device by category; gradients are there twice while micro-batches are added up."""
    params = memory.tree_bytes(abstract.params)
    micro_batch = config.data.batch_size // config.train.accumulate_steps // parts.mesh.size
    shape = jax.ShapeDtypeStruct((micro_batch, config.data.seq_len), np.int32)
    rows = build.Rows(shape, shape, shape, shape)
    key = jax.random.key(0)
    loss = lambda params, rows: parts.loss_fn(params, rows, key)["loss"]
    parts_of_it = {
        "parameters": params,
        "optimiser state": memory.tree_bytes(abstract.opt_state),
        "gradients": params * (1 if config.train.accumulate_steps == 1 else 2),
        "activations": memory.saved_activation_bytes(loss, abstract.params, rows),
    }
    table = rich.table.Table("memory a device", "MB")
    table.columns[1].justify = "right"
    for name, num_bytes in (parts_of_it | {"all": sum(parts_of_it.values())}).items():
        table.add_row(name, f"{num_bytes / 1e6:,.1f}")
    return table
