"""Pretraining: names the parts and wires them together. No maths lives here."""

import functools
import pathlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections

from experiments import report, training
from experiments.wiring import init_from, pretraining
from experiments.wiring.run_folder import with_own_tokenizer
from experiments.wiring.run_length import rows_of_epoch, with_num_steps
from lm.corpus import split_counts
from lm.corpus.batches import Batches, evaluation_batches
from lm.corpus.preparation import Prepared
from lm.corpus.rows import Rows
from lm.errors import UserError
from lm.generate import sampling
from lm.loading.run_folder import has_tokenizer, save_tokenizer
from lm.models.parameters import Params
from lm.objectives.batch import Objective
from lm.parallel import hosts
from lm.parallel.batches import place_batch
from lm.parallel.mesh import process_shard
from lm.run import workdir as workdir_lib
from lm.train import evaluation
from lm.train.language_model import make_eval_step
from lm.train.state import TrainState


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: tuple[int, int] | None = None,
    extend: bool = False,
) -> int:
    """Trains to the end of the config, going on from the newest checkpoint in `workdir`.

    With `extend` the run there may be shorter than the config.

    Returns 0, or 75 when a signal ended it early, after saving.

    Raises:
      UserError: before anything is written, for whatever in the config cannot work.
    """
    with hosts.together():
        config, given = complete(config, workdir, extend)
        parts = pretraining.make_parts(config)
        abstract, part = pretraining.abstract_state(parts), process_shard(parts.mesh)
        training.check(config, evaluation.METRICS, profile_steps)
        prepared = pretraining.make_data(config, parts.model.config)
        reason = no_bits_per_byte(config, prepared)
        if reason and config.checkpoint.best_metric == "eval/bits_per_byte":
            raise UserError(
                f"checkpoint.best_metric=eval/bits_per_byte is not given here: {reason}; take "
                "eval/loss"
            )
        batches = make_batches(config, prepared)
        if config.init_from:
            goes_on = has_tokenizer(workdir)  # Its own was compared when it began.
            init_from.check(config, abstract.params, None if goes_on else prepared.tokenizer)
    shared = share(config, parts, abstract, prepared)
    step_fn = pretraining.make_step(parts, shared.objective, config, abstract)
    key = jax.random.key(config.seed)
    return training.train(
        config,
        workdir,
        make_job(config, workdir, parts, part, shared, batches, sys.argv, extend),
        lambda state, rows: step_fn(state, rows, key),
        given=given,
        profile_steps=profile_steps,
    )


def complete(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, extend: bool = False
) -> tuple[ml_collections.ConfigDict, dict[str, Any]]:
    """The config with its model and its number of steps, and as its workdir will hold it.

    Raises:
      UserError: what does not go together, or a workdir of another run.
    """
    config = init_from.with_model(config)
    given = config.to_dict()
    workdir_lib.check(workdir, given, extend=extend)
    config = with_own_tokenizer(config, workdir)
    return with_num_steps(config, rows_of_epoch), given


class Shared(NamedTuple):
    """What runs have in common whose configs differ in their seed and their optimiser's numbers.

    first_state: seed -> the state before the first step.
    evaluate: params -> metrics over the validation split.
    compressors: what general-purpose ones reach on that split, in bits per byte by name.
    """

    prepared: Prepared
    objective: Objective
    abstract: TrainState
    first_state: Callable[[int], TrainState]
    evaluate: Callable[[Params], dict[str, float]]
    flops_per_token: float
    compressors: Callable[[], dict[str, float]]


def share(
    config: ml_collections.ConfigDict,
    parts: pretraining.PretrainingParts,
    abstract: TrainState,
    prepared: Prepared,
) -> Shared:
    """Makes it of any one of these runs."""
    objective = pretraining.make_objective(config, prepared)
    return Shared(
        prepared=prepared,
        objective=objective,
        abstract=abstract,
        first_state=init_from.make_state(parts, config, abstract),
        evaluate=make_evaluation(config, parts, objective, prepared),
        flops_per_token=pretraining.flops_per_token(
            parts, objective, abstract, config.data.seq_len
        ),
        compressors=functools.cache(lambda: report.compressor_bits_per_byte(config)),
    )


def make_batches(config: ml_collections.ConfigDict, prepared: Prepared) -> Batches:
    """The training batches, each a function of its step."""
    return Batches(prepared, "train", batch_size=config.data.batch_size, seed=config.seed)


def make_job(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    parts: pretraining.PretrainingParts,
    part: tuple[int, int],
    shared: Shared,
    batches: Batches,
    command: Sequence[str],
    extend: bool = False,
) -> training.Job:
    """All of a run but its step; `command` is what gives it."""
    prepared = shared.prepared
    return training.Job(
        schedule=parts.schedule,
        abstract=shared.abstract,
        first_state=lambda: shared.first_state(config.seed),
        batches=batches,
        part=part,
        evaluate=shared.evaluate,
        save_tokenizer=functools.partial(save_tokenizer, prepared.tokenizer, config.init_from),
        data_hash=prepared.hash,
        flops_per_token=shared.flops_per_token,
        describe=lambda: report.start(config, parts, prepared, shared.abstract, workdir),
        finish=lambda checkpoints, state: report.end(
            config,
            prepared,
            workdir,
            checkpoints.metrics(int(state.step)),
            command,
            shared.compressors,
            no_bits_per_byte(config, prepared),
        ),
        sample=functools.partial(_sample, config, parts, prepared)
        if config.eval.sample_tokens
        else None,
        kept={"data.batch_size": config.data.batch_size},
        command=command,
        extend=extend,
    )


def make_evaluation(
    config: ml_collections.ConfigDict,
    parts: pretraining.PretrainingParts,
    objective: Objective,
    prepared: Prepared,
) -> Callable[[Params], dict[str, float]]:
    """params -> metrics over the whole validation split."""
    eval_step = make_eval_step(parts.model, objective, parts.mesh, config.loss.num_blocks)
    part, num_bytes = process_shard(parts.mesh), predicted_bytes(config, prepared)

    def evaluate(params):
        batches = validation_batches(config, prepared, part)
        placed = (place_batch(rows, parts.mesh) for rows in batches)
        return evaluation.evaluate(params, eval_step, placed, num_bytes=num_bytes)

    return evaluate


def validation_batches(
    config: ml_collections.ConfigDict, prepared: Prepared, part: tuple[int, int]
) -> Iterator[Rows]:
    """The whole validation split; of each batch this one of so many parts."""
    shard, num_shards = part
    return evaluation_batches(
        prepared,
        "validation",
        batch_size=config.eval.batch_size,
        shard=shard,
        num_shards=num_shards,
    )


def predicted_bytes(config: ml_collections.ConfigDict, prepared: Prepared) -> int | None:
    """Of the validation text; None where `no_bits_per_byte` says why not."""
    if no_bits_per_byte(config, prepared):
        return None
    return prepared.splits["validation"].num_predicted_bytes


def no_bits_per_byte(config: ml_collections.ConfigDict, prepared: Prepared) -> str:
    """Why an evaluation gives none; "" where it does."""
    if config.objective.kind != "causal":
        return f"objective.kind={config.objective.kind} does not predict each token of a text"
    return split_counts.no_bits_per_byte(prepared.splits["validation"])


def _sample(config, parts: pretraining.PretrainingParts, prepared: Prepared, params) -> str:
    """What the model writes by itself, from the start of a document."""
    tokenizer = prepared.tokenizer
    ends = (tokenizer.bos_id if config.data.add_bos else None, tokenizer.eos_id)
    start = next((i for i in ends if i is not None), 0)  # No such token: from any other.
    (tokens,) = sampling.generate(
        parts.model,
        params,
        [[start]],
        jax.random.key(config.seed),
        vocab_size=tokenizer.vocab_size,
        max_new_tokens=config.eval.sample_tokens,
        temperature=0.8,
        top_k=0,
        top_p=0.95,
        stop_ids=tokenizer.stop_ids,
    )
    return tokenizer.decode(tokens)
