"""Fine-tuning: names the parts and wires them together. No maths lives here."""

import datetime
import functools
import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from flax import linen as nn

from experiments import report, training
from experiments.wiring import init_from, pretraining, task_data, variants
from experiments.wiring.number_ranges import check_numbers
from lm.chat import template_files
from lm.costs import flops
from lm.data.examples import ExampleBatches, evaluation_batches, outputs_by_example
from lm.errors import UserError
from lm.loading import run_folder as run_folder_lib
from lm.loading import task_model
from lm.metrics import seed_average
from lm.models.parameters import Params, num_params
from lm.parallel import hosts
from lm.parallel.batches import place_batch, to_host
from lm.parallel.mesh import make_mesh, num_batch_shards, process_shard, replicated, with_mesh
from lm.parallel.param_rules import constrain_batch_sharding
from lm.run import workdir as workdir_lib
from lm.tasks.task import Task
from lm.train import compile
from lm.train.checkpoints import Checkpoints
from lm.train.evaluation import evaluate_examples
from lm.train.optimizers import evaluation_params, make_optimizer
from lm.train.schedules import Schedule
from lm.train.step import StepFn, TrainState, train_step
from lm.train.trainable import Trainable, checksum


def run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: tuple[int, int] | None = None,
    extend: bool = False,
) -> int:
    """Trains on labelled data, then evaluates the best checkpoint and writes its predictions.

    With `num_seeds` above 1, as many runs from consecutive seeds, each in a folder of its own. With
    `extend` the run there may be shorter than the config. Returns 0, or 75 when a signal ended it
    early, after saving.

    Raises:
      UserError: before anything is written, for whatever in the config or the data cannot work.
    """
    if config.num_seeds < 1:
        raise UserError(f"num_seeds={config.num_seeds} must be at least 1")
    if config.num_seeds == 1:
        return _run(config, workdir, profile_steps, extend)
    results = []
    for seed in range(config.seed, config.seed + config.num_seeds):
        one = variants.changed(config, {"seed": seed, "num_seeds": 1})
        folder = workdir / f"seed-{seed}"
        print(f"--- seed {seed}, in {folder}", flush=True)
        begun = (folder / workdir_lib.CONFIG).exists()  # Others may have been stopped before it.
        may_extend = extend and (begun or seed == config.seed)  # The first one has to be there.
        if code := _run(one, folder, profile_steps, may_extend):
            return code
        # The first process alone has written it, and others may see no such file.
        text = (folder / "result.json").read_text() if hosts.is_first() else ""
        results.append(json.loads(hosts.from_first(text))["metrics"])
    # Runs may differ in the entity types that they find, and in whether a metric is defined.
    defined = [{name for name, value in r.items() if value is not None} for r in results]
    names = [name for name in results[0] if all(name in d for d in defined)]
    over_runs = {name: seed_average.over_runs([r[name] for r in results]) for name in names}
    if hosts.is_first():
        report.seeds(workdir, config.num_seeds, over_runs)
    return 0


def _run(
    config: ml_collections.ConfigDict,
    workdir: pathlib.Path,
    profile_steps: tuple[int, int] | None,
    extend: bool,
) -> int:
    print("reading data", flush=True)
    with hosts.together():
        config = config.copy_and_resolve_references()
        with config.unlocked():  # A block of another run's kind may have other keys.
            config.task = ml_collections.ConfigDict(_as_begun(config.task.to_dict(), workdir))
        with config.ignore_type():  # What began before there was "auto" goes on as it was.
            if config.model.scan_layers == "auto":
                config.model.scan_layers = _begun_scan_layers(workdir)
        config, data = read(config, workdir)
        requested_config = config.to_dict()
        workdir_lib.check(workdir, requested_config, extend=extend)
        config = variants.with_num_steps(config, len(data.train.examples))
        training.check(config, data.metrics, profile_steps)
    init_from.announce(config.init_from)
    return training.train(
        FineTuning(config, workdir, data, make_parts(config, data), extend),
        requested_config=requested_config,
        profile_steps=profile_steps,
    )


class FineTuning:
    """A run of fine-tuning; see `experiment.Experiment`.

    Raises UserError where there is less data than one batch.
    """

    command = None

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        data: task_data.TaskData,
        parts: "FineTuningParts",
        extend: bool,
    ):
        self.config, self.workdir, self.data, self.parts = config, workdir, data, parts
        self.schedule, self.abstract, self.extend = parts.schedule, parts.abstract, extend
        self.batches = make_batches(data, config.data, config.seed, parts.row_multiple)
        self.shard = process_shard(parts.mesh)
        self.data_hash = data.hash
        self.flops_per_token = flops_per_token(parts.model, parts.params, config.data.seq_len)
        self.kept = {  # A checkpoint holds what is trained, and fits these frozen parameters only.
            "frozen parameters": checksum(to_host(parts.frozen)),
            "data.batch_size": config.data.batch_size,
        }
        sizes = dict(multiple=config.data.multiple, batch_size=config.eval.batch_size)
        evaluation = functools.partial(make_evaluation, data.task, parts.model, parts.mesh, **sizes)
        self._evaluate_validation = evaluation(data.validation)
        self._evaluate_training = evaluation(data.train)
        self._last_evaluation: tuple[int, dict[str, float], list[Any]] | None = None

    def save_tokenizer(self, folder: pathlib.Path) -> None:
        is_chat = self.config.task.kind == "chat"  # Which has templates of its own.
        run_folder_lib.save_tokenizer(
            self.data.tokenizer, "" if is_chat else self.config.init_from, folder
        )
        if is_chat:
            templates = template_files.choose(self.config.task.template, None, "")
            template_files.write(folder, templates.sources)

    def progress(self, step: int) -> dict[str, float]:
        return {}

    def describe(self) -> None:
        parts = self.parts
        report.start_fine_tuning(
            self.config, self.data, parts.abstract, parts.frozen, parts.lines, self.workdir
        )

    def first_state(self) -> TrainState:
        return self.parts.first_state()

    def compiled_step(self) -> tuple[StepFn, Callable[[Any], Any]]:
        step, place = make_step(self.parts)
        key = jax.random.key(self.config.seed)
        # Frozen ones are an argument: as constants they would be compiled into the program.
        return functools.partial(step, key=key, frozen=self.parts.frozen), place

    def evaluate(self, step: int, trained_params: Params) -> dict[str, float]:
        params = self.parts.trained.combine(trained_params, self.parts.frozen)
        metrics, predictions = self._evaluate_validation(params)
        self._last_evaluation = step, metrics, predictions
        if self.config.eval.on_training:
            seen, _ = self._evaluate_training(params)
            seen = {name.replace("eval/", "training_set/"): x for name, x in seen.items()}
            metrics = metrics | seen
        needed = tuple(n for n in ("eval/loss", self.config.checkpoint.best_metric) if n)
        training.check_finite(metrics, needed, self.config.data.on_error)
        return metrics

    def sample(self, trained_params: Params) -> None:
        """Returns None: a task's model writes no text by itself."""

    def finish(self, checkpoints: Checkpoints, state: TrainState) -> None:
        """Reports the best checkpoint, and writes its predictions."""
        step, best_metric = int(state.step), self.config.checkpoint.best_metric
        if best_metric:
            step = checkpoints.best_step()
            print(f"step {step} is the best by {best_metric}")
        # Mostly the last one that was evaluated; else its parameters are read again.
        if self._last_evaluation is not None and self._last_evaluation[0] == step:
            _, metrics, predictions = self._last_evaluation
        else:
            if best_metric:
                step, state, _ = checkpoints.restore(self.abstract, best=True)
                print(f"restored step {step}")
            trained_params = evaluation_params(state.params, state.opt_state)
            params = self.parts.trained.combine(trained_params, self.parts.frozen)
            metrics, predictions = self._evaluate_validation(params)
        if hosts.is_first():
            report.fine_tuned(self.workdir, self.data, step, metrics, predictions)


def _as_begun(task: dict[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
    """Fills what a `task` block leaves open from the run in this folder, if of the same kind."""
    # So a run goes on with its labels and their order, and of chats with its day and template.
    begun = {}
    if (workdir / workdir_lib.CONFIG).exists():
        begun = workdir_lib.load_config(workdir).get("task", {})
        if begun.get("kind") != task["kind"]:
            begun = {}  # Of some other run, which `workdir.check` refuses.
    if not task.get("labels", True):
        task = task | {"labels": tuple(begun.get("labels", ()))}
    if task["kind"] != "chat":
        return task
    if begun and "date" not in begun:  # A run of before there were days; see `factory._chat`.
        without_date = {name: value for name, value in task.items() if name != "date"}
        return without_date | {"template": task["template"] or begun.get("template", "")}
    days = (task["date"], begun.get("date", ""), datetime.date.today().isoformat())
    return task | {"date": next(filter(None, days))}


def _begun_scan_layers(workdir: pathlib.Path) -> bool | str:
    """Returns `model.scan_layers` of the run in this folder, or "auto"."""
    if not (workdir / workdir_lib.CONFIG).exists():
        return "auto"
    return workdir_lib.load_config(workdir).get("model", {}).get("scan_layers", "auto")


def read(
    config: ml_collections.ConfigDict, workdir: pathlib.Path | None = None
) -> tuple[ml_collections.ConfigDict, task_data.TaskData]:
    """The config of a run with its model and task complete, and the data.

    A run that is to be trained may go on in `workdir`, and then keeps the tokenizer that is there.

    Raises:
      UserError: what cannot be read, or does not go together.
    """
    if "name" in config.model and config.init_from:
        raise UserError(
            f"init_from={config.init_from} brings its own model, and this config has one too; "
            "leave out the argument model= of the config, or init_from"
        )
    config = init_from.with_model(config)
    check_numbers(config.to_dict())
    tokenizer = config.tokenizer
    if workdir:
        tokenizer = init_from.own_tokenizer(tokenizer, workdir)
    data = task_data.read(config.task, config.data, config.model, tokenizer, config.init_from)
    config.task.update(data.block)
    return config, data


class FineTuningParts(NamedTuple):
    """The parts that a config of fine-tuning stands for, its parameters included."""

    model: nn.Module
    task: Task
    trained: Trainable
    tx: optax.GradientTransformation
    schedule: Schedule
    mesh: jax.sharding.Mesh
    strategy: str
    accumulate_steps: int
    params: Params  # Of the whole model, before the first step.
    frozen: Params  # Those of them that are not trained.
    create: Callable[[Params], TrainState]  # From `params` to the first state.
    abstract: TrainState  # Its shapes and shardings.
    lines: list[str]  # What was new in the parameters, and what was left out.

    @property
    def row_multiple(self) -> int:
        """Devices and micro-batches share the rows of a batch in equal parts."""
        return num_batch_shards(self.mesh) * self.accumulate_steps

    def first_state(self) -> TrainState:
        """The state before the first step."""
        shardings = pretraining.shardings_of(self.abstract)
        return jax.jit(self.create, out_shardings=shardings)(self.params)


def make_parts(
    config: ml_collections.ConfigDict,
    data: task_data.TaskData,
    devices: Sequence[jax.Device] | None = None,
) -> FineTuningParts:
    """Everything but the data, from what `read` gave; `devices` are of the mesh, None for all.

    Raises:
      UserError: settings that do not go together.
    """
    mesh = make_mesh(**config.parallel, devices=devices)
    pretraining.check_batch(
        config.data, config.train.accumulate_steps, config.eval.batch_size, mesh
    )
    tx, schedule = make_optimizer(num_steps=config.train.num_steps, **config.optimizer)
    model = task_model.make_model(config, data.task)
    params, lines = task_model.task_params(config, data.task, model, mesh)
    trained = Trainable(config.lora.to_dict(), config.train.frozen, params)
    key = jax.random.key(config.seed)
    create = lambda params: TrainState.create(trained.init(params, key), tx)
    return FineTuningParts(
        model=model,
        task=data.task,
        trained=trained,
        tx=tx,
        schedule=schedule,
        mesh=mesh,
        strategy=config.parallel.strategy,
        accumulate_steps=config.train.accumulate_steps,
        params=params,
        frozen=trained.partition(params)[1],
        create=create,
        abstract=pretraining.with_shardings(jax.eval_shape(create, params), mesh),
        lines=lines,
    )


def make_batches(
    labelled: task_data.TaskData, data: ml_collections.ConfigDict, seed: int, row_multiple: int
) -> ExampleBatches:
    """The training batches, each a function of its step; `data` is that block of the config."""
    return ExampleBatches(
        labelled.train.examples,
        layout=labelled.task.layout,
        multiple=data.multiple,
        batch_size=data.batch_size,
        row_multiple=row_multiple,
        seed=seed,
    )


def make_step(parts: FineTuningParts) -> tuple[Callable, Callable[[Any], Any]]:
    """Returns step(state, batch, key=, frozen=) -> (state, metrics), and what places batches."""
    loss = functools.partial(parts.task.objective.loss, parts.model)
    loss = constrain_batch_sharding(loss, parts.mesh)

    def step(state, batch, key, frozen, *, axis_name=None):
        def loss_fn(params, batch, key):
            return loss(parts.trained.combine(params, frozen), batch, key)

        # Tokens that are read, an encoder's too, without padding.
        lengths = [x for name, x in batch.items() if name.endswith(("length_B", "length_BE"))]
        return train_step(
            state,
            batch,
            key,
            loss_fn=loss_fn,
            tx=parts.tx,
            accumulate_steps=parts.accumulate_steps,
            num_seen=sum(map(jnp.sum, lengths)),
            axis_name=axis_name,
        )

    shardings = pretraining.shardings_of(parts.abstract)
    return compile.compile_step(step, parts.strategy, parts.mesh, shardings)


def make_evaluation(
    task: Task,
    model: nn.Module,
    mesh: jax.sharding.Mesh,
    split: task_data.Split,
    *,
    multiple: int,
    batch_size: int,
) -> Callable[[Params], tuple[dict[str, float], list[Any]]]:
    """params -> metrics over a split, and a prediction for each record."""
    shard, num_shards = process_shard(mesh)

    @with_mesh
    @functools.partial(jax.jit, out_shardings=replicated(mesh))
    @functools.partial(constrain_batch_sharding, mesh=mesh)
    def eval_step(params, batch):
        loss = task.objective.loss(model, params, batch, None)
        return loss, task.objective.outputs(model, params, batch)

    def evaluate(params):
        batches = evaluation_batches(
            split.examples,
            layout=task.layout,
            multiple=multiple,
            batch_size=batch_size,
            row_multiple=num_batch_shards(mesh),
            shard=shard,
            num_shards=num_shards,
        )
        placed = ((rows, place_batch(batch, mesh)) for rows, batch in batches)
        loss, found = evaluate_examples(lambda batch: eval_step(params, batch), placed)
        outputs = outputs_by_example(found, split.examples, task.layout)
        # Of a long text each window is an example, and the task joins what it says of them.
        by_record: list[list] = [[] for _ in split.records]
        for i, owner in enumerate(split.owners):
            by_record[owner].append(outputs[i])
        predictions = task.predictions(split.records, by_record, model, params)
        scores = task.score(split.records, predictions)
        metrics = {"eval/loss": loss} | {f"eval/{name}": x for name, x in scores.items()}
        return metrics, predictions

    return evaluate


def flops_per_token(model: nn.Module, params: Params, seq_len: int) -> float:
    """Counts those of a token of a full row; see `flops.train_flops`. Frozen layers count, too."""
    has_body = "body" in params
    c = model.body.config if has_body else model.config
    body = params["body"] if has_body else params
    tables = [np.size(x) for name, x in body.items() if name.endswith("_embedding")]
    # A language model's table of tokens is multiplied once, as its output.
    output = 0 if has_body else c.vocab_size * c.model_dim
    matrices = [(num_params(params) - sum(tables) + output, seq_len)]
    attention = [(c.num_layers, c.num_heads * c.head_dim, seq_len, seq_len)]
    return flops.train_flops(matrices, attention) / seq_len
