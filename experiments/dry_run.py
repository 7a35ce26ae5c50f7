"""Looks without training: what a config would build, and what a step sees."""

import jax
import ml_collections
import numpy as np
import rich
import rich.table

from experiments import build
from lm.data.batches import Batches
from lm.data.rows import abstract_rows
from lm.data.show import Stream, render
from lm.errors import UserError
from lm.objectives.batch import Batch
from lm.train import memory


def run(config: ml_collections.ConfigDict) -> None:
    """Prints parameters by block, FLOPs a token, memory a device, and the first batch, decoded."""
    config = build.with_num_steps(config, lambda: build.rows_of_epoch(config))
    parts = build.make_parts(config)
    abstract = build.abstract_state(parts)
    rich.print(_parameter_table(abstract))
    prepared = build.make_data(config, parts.model.config)
    objective = build.make_objective(config, prepared)
    flops = build.flops_per_token(parts, objective, abstract, config.data.seq_len)
    tokens = config.data.batch_size * config.data.seq_len
    print(f"\n{flops:.4g} training FLOPs a token, {flops * tokens:.4g} a step of {tokens:,} tokens")
    rich.print(_memory_table(config, parts, objective, abstract))
    num_rows = prepared.splits["train"].num_rows
    if num_rows < config.data.batch_size:  # As where a large recipe is tried without its corpus.
        print(f"\nthis corpus has {num_rows:,} rows, fewer than a batch: a run needs more text")
        config = config.copy_and_resolve_references()
        config.data.batch_size = num_rows
    _show(config, prepared, objective, step=0)


def show_batch(config: ml_collections.ConfigDict, step: int) -> None:
    """Prints what training step `step` sees; the first one is 1."""
    config = build.with_num_steps(config, lambda: build.rows_of_epoch(config))
    if not 1 <= step <= config.train.num_steps:
        raise UserError(
            f"--show_batch={step} is not a step of this run: 1 to {config.train.num_steps}"
        )
    parts = build.make_parts(config)
    prepared = build.make_data(config, parts.model.config)
    _show(config, prepared, build.make_objective(config, prepared), step - 1)


def _show(config: ml_collections.ConfigDict, prepared, objective, step: int) -> None:
    batches = Batches(prepared, "train", batch_size=config.data.batch_size, seed=config.seed)
    rows = batches.batch_at(step)
    key = build.objective_key(jax.random.key(config.seed), step)
    batch = jax.device_get(jax.jit(objective)(rows, key))
    print(f"\nstep {step + 1} sees rows {rows.ids_B.tolist()}")
    rich.print(render(_streams(batch), prepared.tokenizer))


def _streams(batch: Batch) -> list[Stream]:
    """What the model reads, and what it must write."""
    inputs = batch.inputs
    if "predict_BP" in inputs:
        targets_BL = np.full(inputs["tokens_BL"].shape, -1)
        for b, at_P in enumerate(inputs["predict_BP"]):
            asked_P = batch.weights_BL[b] > 0
            targets_BL[b, at_P[asked_P]] = batch.targets_BL[b, asked_P]
        return [Stream("", inputs["tokens_BL"], inputs["segment_ids_BL"], None, targets_BL)]
    segment_ids_BL = inputs["segment_ids_BL"]
    if "encoder_tokens_BM" not in inputs:
        return [Stream("", inputs["tokens_BL"], segment_ids_BL, batch.weights_BL)]
    encoder = inputs["encoder_tokens_BM"], inputs["encoder_segment_ids_BM"]
    return [
        Stream("encoder", *encoder),
        Stream("decoder", batch.targets_BL, segment_ids_BL, batch.weights_BL),
    ]


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


def _memory_table(config, parts: build.Parts, objective, abstract) -> rich.table.Table:
    """Bytes a device by category; gradients are there twice while micro-batches are added up."""
    params = memory.tree_bytes(abstract.params)
    micro_batch = config.data.batch_size // config.train.accumulate_steps // parts.mesh.size
    rows, key = abstract_rows(micro_batch, config.data.seq_len), jax.random.key(0)
    batch = jax.eval_shape(objective, rows, key)
    loss = lambda params, batch: parts.loss_fn(params, batch, key)["loss"]
    parts_of_it = {
        "parameters": params,
        "optimiser state": memory.tree_bytes(abstract.opt_state),
        "gradients": params * (1 if config.train.accumulate_steps == 1 else 2),
        "activations": memory.saved_activation_bytes(loss, abstract.params, batch),
    }
    table = rich.table.Table("memory a device", "MB")
    table.columns[1].justify = "right"
    for name, num_bytes in (parts_of_it | {"all": sum(parts_of_it.values())}).items():
        table.add_row(name, f"{num_bytes / 1e6:,.1f}")
    return table
