"""Looks without training: what a config would build, and what a step sees."""

import json

import jax
import ml_collections
import numpy as np
import rich
import rich.table

from experiments import finetune, report
from experiments.estimates import communication, memory
from experiments.wiring import (
    eval_corpora,
    init_from,
    mixtures,
    pretraining,
    task_data,
    variants,
)
from lm.corpus.batches import Batches
from lm.data.examples import ExampleBatches
from lm.data.render import MAX_ROWS, Stream, render
from lm.errors import UserError
from lm.models.parameters import num_params
from lm.objectives.batch import Batch, Objective
from lm.parallel.mesh import make_mesh, num_batch_shards
from lm.tasks.text import lengths_of, segments
from lm.tokenizers.tokenizers import Tokenizer
from lm.train.language_model import objective_key


def run(config: ml_collections.ConfigDict, num_devices: int | None = None) -> None:
    """Prints parameters by block, FLOPs a token, memory a device, and the first batch, decoded.

    Where a mesh has several devices, also what they send one another, and the least time of a step.
    With `num_devices` it is as if there were so many accelerators.

    Raises:
      UserError: what would stop the run; a number of devices that is none, or for fine-tuning.
    """
    if num_devices is not None and num_devices < 1:
        raise UserError(f"--devices={num_devices} must be at least 1")
    if config.experiment == "pretrain":
        _pretraining(config, num_devices)
    elif num_devices is not None:
        raise UserError(f"--devices={num_devices} is about pretraining; leave it out")
    else:
        _fine_tuning(config)


def show_batch(config: ml_collections.ConfigDict, step: int) -> None:
    """Prints what training step `step` sees; the first one is 1."""
    if config.experiment == "finetune":
        config, data = finetune.read(config)
        config = variants.with_num_steps(config, len(data.train.examples))
        _check_step(step, config.train.num_steps)
        row_multiple = config.train.accumulate_steps * num_batch_shards(
            make_mesh(**config.parallel)
        )
        batches = finetune.make_batches(data, config.data, config.seed, row_multiple)
        _show_examples(batches, data, step - 1)
        return
    config = variants.with_num_steps(init_from.with_model(config))
    _check_step(step, config.train.num_steps)
    parts = pretraining.make_parts(config)
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    objective = pretraining.make_objective(config.objective, parts.model, prepared)
    batches = mixtures.make_batches(
        prepared,
        batch_size=config.data.batch_size,
        seed=config.seed,
        num_steps=config.train.num_steps,
    )
    _show(batches, prepared.tokenizer, objective, config.seed, step - 1)


def _check_step(step: int, num_steps: int) -> None:
    if not 1 <= step <= num_steps:
        raise UserError(f"--show_batch={step} is not a step of this run: 1 to {num_steps}")


def _pretraining(config: ml_collections.ConfigDict, num_devices: int | None) -> None:
    config = init_from.with_model(config)
    if num_devices is not None:  # Before its rows are counted for the devices that are here.
        config = variants.for_accelerators(config, num_devices)
    config = variants.with_num_steps(config)
    parts = pretraining.make_parts(config, num_devices)
    abstract = pretraining.abstract_state(parts)
    rich.print(_parameter_table(abstract.params))
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    report.warn(prepared.notes())
    report.eval_corpora(
        eval_corpora.prepare(config.eval.corpora, config.data, prepared.tokenizer_block)
    )
    objective = pretraining.make_objective(config.objective, parts.model, prepared)
    flops = pretraining.flops_per_token(parts, objective, abstract, config.data.seq_len)
    tokens = config.data.batch_size * config.data.seq_len
    print(f"\n{flops:.4g} training FLOPs a token, {flops * tokens:.4g} a step of {tokens:,} tokens")
    held = memory.pretraining_bytes(config, parts, objective, abstract)
    rich.print(memory.memory_table(held))
    if parts.mesh.size > 1:
        found = communication.collectives(config, parts.mesh.shape)
        communication.show(found, parts, held, flops * tokens)
    batch_size, num_rows = config.data.batch_size, prepared.splits["train"].num_rows
    if num_rows < batch_size:  # As where a large recipe is tried without its corpus.
        print(f"\nthis corpus has {num_rows:,} rows, fewer than a batch: a run needs more text")
        batch_size = num_rows
    sizes = dict(batch_size=batch_size, num_steps=config.train.num_steps)
    batches = mixtures.make_batches(prepared, seed=config.seed, **sizes)
    if batches.mixture:
        report.mixture(prepared, batches.mixture)
    _show(batches, prepared.tokenizer, objective, config.seed, step=0)


def _fine_tuning(config: ml_collections.ConfigDict) -> None:
    config, data = finetune.read(config)
    config = variants.with_num_steps(config, len(data.train.examples))
    parts = finetune.make_parts(config, data)
    rich.print(_parameter_table(parts.abstract.params))
    for line in (f"frozen: {num_params(parts.frozen):,} parameters", *parts.lines):
        print(line)
    flops = finetune.flops_per_token(parts.model, parts.params, config.data.seq_len)
    num_steps, num_examples = config.train.num_steps, len(data.train.examples)
    print(f"\n{num_examples:,} examples, {num_steps:,} steps, {flops:.4g} training FLOPs a token")
    report.warn(data.warnings)
    batches = finetune.make_batches(data, config.data, config.seed, parts.row_multiple)
    # Of the shape of the first batch, since examples give a batch its own.
    first = batches.batch_at(0)
    num_rows = len(next(iter(first.values())))
    num_rows = memory.micro_batch(num_rows, parts.accumulate_steps, parts.mesh)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_rows, *x.shape[1:]), x.dtype), first)

    def loss(params, frozen_and_batch):
        frozen, batch = frozen_and_batch
        params = parts.trained.combine(params, frozen)
        key = jax.random.key(0)
        return data.task.objective.loss(parts.model, params, batch, key)["loss"]

    # Without shardings, so that all of the frozen ones count; those that are trained have theirs.
    frozen = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parts.frozen)
    params = parts.abstract.params
    inputs = frozen, batch
    held = memory.held_bytes(parts.accumulate_steps, parts.abstract, frozen, loss, params, inputs)
    rich.print(memory.memory_table(held))
    _show_examples(batches, data, step=0)


def _show(
    batches: Batches, tokenizer: Tokenizer, objective: Objective, seed: int, step: int
) -> None:
    rows = batches.batch_at(step)
    key = objective_key(jax.random.key(seed), step)  # As the step itself draws.
    batch = jax.device_get(jax.jit(objective)(rows, key))
    print(f"\nstep {step + 1} sees rows {rows.ids_B.tolist()}")
    if sources := batches.sources_at(step):
        print(f"of {', '.join(sources)}")
    rich.print(render(_streams(batch), tokenizer))


def _show_examples(batches: ExampleBatches, data: task_data.TaskData, step: int) -> None:
    batch, rows = batches.laid_out_at(step)
    print(f"\nstep {step + 1} sees")
    for b, row in enumerate(rows[:MAX_ROWS]):  # As `render` shows.
        for example in row:
            record = data.train.records[data.train.owners[example]]
            gold = json.dumps(data.task.gold(record), ensure_ascii=False)
            print(f"row {b}: {record.name}, gold {gold}")
    rich.print(render(_example_streams(batch), data.tokenizer))


def _example_streams(batch: dict[str, np.ndarray]) -> list[Stream]:
    """Shows what the model reads and writes; the parts of a pair are two segments."""

    def segment_ids(length_BE, tokens, types=0):
        ids = np.asarray(segments(length_BE, tokens.shape[1])[0])
        return np.where(ids > 0, 2 * ids - 1 + types, 0) if np.any(types) else ids

    if "encoder_tokens_BM" in batch:
        read, written = batch["encoder_tokens_BM"], batch["targets_BL"]
        segment_ids_BL = segment_ids(lengths_of(batch), written)
        return [
            Stream("encoder", read, segment_ids(batch["encoder_length_B"][:, None], read)),
            Stream("decoder", written, segment_ids_BL, segment_ids_BL > 0),
        ]
    tokens_BL = batch["tokens_BL"]
    segment_ids_BL = segment_ids(lengths_of(batch), tokens_BL, batch.get("types_BL", 0))
    return [Stream("", tokens_BL, segment_ids_BL, batch.get("weights_BL"))]


def _streams(batch: Batch) -> list[Stream]:
    """Shows what the model reads, and what it must write."""
    inputs = batch.inputs
    if "predict_BP" in inputs:
        targets_BL = np.full(inputs["tokens_BL"].shape, -1)  # -1: nothing is asked here.
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


def _parameter_table(params) -> rich.table.Table:
    table = rich.table.Table("block", "shape", "parameters", title="parameters")
    for path, x in jax.tree_util.tree_flatten_with_path(params)[0]:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        table.add_row(name, " x ".join(map(str, x.shape)), f"{num_params(x):,}")
    table.add_section()
    for name, block in params.items():
        table.add_row(name, "", f"{num_params(block):,}")
    table.add_section()
    table.add_row("all", "", f"{num_params(params):,}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table
