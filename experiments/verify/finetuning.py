"""What `verify` checks of fine-tuning."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import finetune, report, training
from experiments.verify import subject
from experiments.verify.subject import Devices, ShrunkRun, StepUnderTest, Variation
from experiments.wiring import pretraining, task_data, variants
from lm.data.examples import lay_out
from lm.models.parameters import Params
from lm.parallel.mesh import make_mesh
from lm.train.optimizers import make_optimizer

_NUM_TRAINED, _NUM_EVALUATED, _NUM_COMPARED = 32, 7, 6  # Records, records, examples.
_MULTIPLE = 16  # Short, so that examples are padded to several lengths.


def make(
    config: ml_collections.ConfigDict, own: Sequence[jax.Device], home: Devices, mesh: Devices
) -> ShrunkRun:
    """Makes the subject of a config of fine-tuning, its data in memory; see `pretraining.make`."""
    config, data = finetune.read(config)
    report.warn(data.warnings)
    config = variants.with_num_steps(config, len(data.train.examples))
    training.check(config, data.metrics, None)
    # What `make_parts` would refuse, but for the model, which may be too large for this machine.
    mesh_of_run = make_mesh(**config.parallel, devices=own)
    pretraining.check_batch(
        config.data, config.train.accumulate_steps, config.eval.batch_size, mesh_of_run
    )
    make_optimizer(num_steps=config.train.num_steps, **config.optimizer)
    config = subject.shrunk(config, mesh)
    config.data.multiple = min(config.data.multiple, _MULTIPLE)
    train, validation = _few(data.train, _NUM_TRAINED), _few(data.validation, _NUM_EVALUATED)
    data = data._replace(train=train, validation=validation)
    parts = finetune.make_parts(subject.varied(config, Variation(home)), data, home)
    key = jax.random.key(config.seed)

    @subject.kept(has_dropout=config.model.get("dropout", 0) > 0, draws=False)
    def trainer(variant: Variation) -> StepUnderTest:
        parts = finetune.make_parts(subject.varied(config, variant), data, variant.devices)
        first = parts.first_state()
        if variant.plain:  # Its optimiser keeps nothing.
            without = lambda state: state.replace(opt_state=subject.PLAIN.init({}))
            first = without(first)
            parts = parts._replace(tx=subject.PLAIN, abstract=without(parts.abstract))
        step, place = finetune.make_step(parts)
        step = functools.partial(step, key=key, frozen=parts.frozen)
        return StepUnderTest(parts.abstract, lambda: subject.copied(first), step, place)

    def evaluate(params, batch_size):
        sizes = dict(multiple=config.data.multiple, batch_size=batch_size)
        of_split = finetune.make_evaluation(data.task, parts.model, parts.mesh, validation, **sizes)
        return of_split(parts.trained.combine(params, parts.frozen))[0]

    partial = config.lora.rank or config.train.frozen
    return ShrunkRun(
        home=home,
        mesh=mesh,
        trainer=trainer,
        # One batch for every mesh and number of micro-batches.
        make_batches=lambda: finetune.make_batches(
            data, config.data, config.seed, row_multiple=config.data.batch_size
        ),
        uneven=_uneven(data, config.data.multiple, config.data.batch_size),
        evaluate=evaluate,
        num_evaluated=[len(validation.examples)],
        costs=_costs(data, parts, config.data.multiple),
        chance=subject.INIT_FROM
        if config.init_from
        else _chance(config.task, config.model.vocab_size),
        not_overfit="most of the model is frozen, and here it is random" if partial else "",
    )


def _few(split: task_data.Split, count: int) -> task_data.Split:
    """Takes some records of the shorter half, at equal distances by length, and their examples."""
    by_record: list[list] = [[] for _ in split.records]
    for example, owner in zip(split.examples, split.owners, strict=True):
        by_record[owner].append(example)
    size = lambda r: (max(np.size(x) for e in by_record[r] for x in e.values()), r)
    # The shorter half, for checks to be quick; but not the shortest alone, which may be alike.
    shorter = sorted(range(len(by_record)), key=size)[: max(count, len(by_record) // 2)]
    chosen = shorter[:: max(1, len(shorter) // count)][:count]
    owners = [i for i, r in enumerate(chosen) for _ in by_record[r]]
    examples = [example for r in chosen for example in by_record[r]]
    return task_data.Split([split.records[r] for r in chosen], examples, owners)


def _uneven(data: task_data.TaskData, multiple: int, batch_size: int) -> Any:
    """Makes a batch whose last rows, not quite half of them, hold no example."""
    examples = data.train.examples[: batch_size // 2 + 1]
    batch, _ = lay_out(examples, data.task.layout, multiple=multiple, row_multiple=batch_size)
    return batch


def _costs(
    data: task_data.TaskData, parts: finetune.FineTuningParts, width: int
) -> Callable[[Params], tuple[np.ndarray, np.ndarray]]:
    """trained params -> the cost of some examples in one batch, padded further, and one by one."""
    examples = data.train.examples[:_NUM_COMPARED]

    def costs(trained_params):
        sums = lambda params, batch: parts.task.objective.loss(parts.model, params, batch, None)
        loss = jax.jit(lambda params, batch: sums(params, batch)["nll"])
        params = parts.trained.combine(trained_params, parts.frozen)

        def cost(some, multiple):
            batch, _ = lay_out(some, parts.task.layout, multiple=multiple, row_multiple=1)
            return float(loss(params, batch))

        alone = sum(cost([example], width) for example in examples)
        return np.array([cost(examples, 2 * width)]), np.array([alone])

    return costs


def _chance(task: ml_collections.ConfigDict, vocab_size: int) -> float | str:
    """Returns the loss of a task where all answers are equally likely, if they can be counted."""
    if task.kind == "multi_label":  # Of each label yes or no.
        return math.log(2)
    if task.kind in ("seq2seq", "chat"):
        return math.log(vocab_size)
    if task.kind == "classification" or (task.kind == "tagging" and not (task.crf and task.scheme)):
        return math.log(len(task.labels))
    return f"of {task.kind} no number of answers says what chance would give"
