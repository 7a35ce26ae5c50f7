"""From the blocks of a config to the parts of a run. Checks everything that needs no data."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import optax
from flax import linen as nn
from jax.sharding import Mesh

from experiments.wiring import eval_corpora, mixtures, objectives
from experiments.wiring.number_ranges import check_numbers, check_positions
from lm.corpus import mixed_corpus, preparation
from lm.corpus.batches import Corpus
from lm.corpus.rows import abstract_rows
from lm.costs import flops
from lm.errors import UserError
from lm.loading.run_folder import num_old_tokens
from lm.models import families, mup
from lm.models.factory import family_named, make_model
from lm.models.families import init_params
from lm.models.parameters import num_params
from lm.objectives.batch import Objective
from lm.parallel.mesh import make_mesh, num_batch_shards
from lm.parallel.param_rules import constrain_batch_sharding
from lm.settings import call, choose
from lm.system.cache import cache_folder
from lm.tokenizers.vocabulary import vocabulary_of
from lm.train import compile, language_model, new_rows
from lm.train.optimizers import make_optimizer
from lm.train.schedules import Schedule
from lm.train.step import LossFn, TrainState


@dataclasses.dataclass(frozen=True)
class PretrainingParts:
    """The parts that a config stands for, before any data is read or any array exists."""

    model: nn.Module
    loss_fn: LossFn
    # Rebuilds `tx` and `schedule` with other `SCALARS`, given by name, for vmapped runs.
    make_optimizer: Callable[..., tuple[optax.GradientTransformation, Schedule]]
    tx: optax.GradientTransformation
    schedule: Schedule
    mesh: Mesh
    strategy: str
    accumulate_steps: int

    @functools.cached_property
    def init(self) -> Callable[[jax.Array], TrainState]:
        """key -> the state before the first step."""
        # One function, so that JAX traces it once, for its shapes and for its program.
        return lambda key: TrainState.create(init_params(self.model, key), self.tx)


def make_parts(
    config: ml_collections.ConfigDict, devices: Sequence[jax.Device] | int | None = None
) -> PretrainingParts:
    """Builds and cross-checks model, loss, optimiser, and a mesh of these, or so many, devices.

    Raises:
      UserError: a value or a combination that cannot work, named by its key.
    """
    check_numbers(config.to_dict())
    objective = config.objective.to_dict()
    architecture = family_named(config.model.name).architecture
    objectives.check(objective, architecture)
    model = make_model(config.model, **rows_of(config.objective.kind, config.parallel.sequence))
    model_config = model.config
    if config.eval.sample_tokens and architecture != "decoder":
        raise UserError(
            f"eval.sample_tokens={config.eval.sample_tokens}: only decoders write samples; set it "
            "to 0"
        )
    if architecture == "decoder" and config.eval.sample_tokens >= model_config.max_len:
        raise UserError(
            f"eval.sample_tokens={config.eval.sample_tokens} must be less than the model's "
            f"positions, model.max_len={model_config.max_len}"
        )
    eval_corpora.check(config.eval.corpora, mixtures.names(config.data))
    check_positions(config.data.seq_len, model_config)
    mixtures.check(config.data, config.train.num_steps)
    mesh = make_mesh(**config.parallel, devices=devices)
    check_batch(config.data, config.train.accumulate_steps, config.eval.batch_size, mesh)
    # `call` names the key of the block that is unknown, or missing.
    loss_fn = call(functools.partial(language_model.make_loss_fn, model), "loss", {**config.loss})
    # muP scales rates by how many times wider the model is than its base shape.
    settings = {"num_steps": config.train.num_steps, "growth": mup.growth(model_config)}
    if "only" in config.train and config.train.only:  # Recipes of new models have no such key.
        choose("train.only", config.train.only, ("", "new_rows"))
        settings["trained"] = new_rows.trained_rows(num_old_tokens(config.init_from))
        loss_fn = new_rows.with_gradients_of(settings["trained"], loss_fn)
    make = functools.partial(make_optimizer, **settings, **config.optimizer)
    tx, schedule = make()
    return PretrainingParts(
        model=model,
        loss_fn=constrain_batch_sharding(loss_fn, mesh),
        make_optimizer=make,
        tx=tx,
        schedule=schedule,
        mesh=mesh,
        strategy=config.parallel.strategy,
        accumulate_steps=config.train.accumulate_steps,
    )


def rows_of(objective_kind: str, sequence: int) -> dict[str, Any]:
    """Says what packed rows, each cut into `sequence` parts, ask of attention; see `make_model`."""
    return dict(causal=objective_kind == "causal", packed=True, sequence_parts=sequence)


def make_objective(objective: Mapping[str, Any], model: nn.Module, prepared: Corpus) -> Objective:
    """The objective of an `objective` block, with the special tokens of this corpus's tokenizer."""
    return objectives.make_objective(
        objective,
        architecture=families.family_of(model).architecture,
        vocabulary=vocabulary_of(prepared.tokenizer),
        seq_len=prepared.seq_len,
    )


def make_data(
    data: Mapping[str, Any], tokenizer: Mapping[str, Any], vocab_size: int, **where
) -> Corpus:
    """Opens a corpus, or the several of a mixture, which the first run prepares.

    Args:
      data, tokenizer: these blocks of a config of pretraining.
      vocab_size: of the model, which must have room for the tokenizer's vocabulary.
      **where: `cache_dir`, and others, of `preparation.prepare`; not given, the usual cache.

    Raises:
      UserError: a source or tokenizer that does not work, or one that does not fit the model.
    """
    # How rows are drawn is no part of the cache's key: all batch sizes share what is prepared.
    block = {k: v for k, v in data.items() if not k.startswith("batch_size")}
    prepared = call(
        mixed_corpus.prepare if "sources" in data else preparation.prepare,
        "data",
        block,
        tokenizer={**tokenizer},
        **(where or {"cache_dir": cache_folder("data")}),
    )
    if prepared.tokenizer.vocab_size > vocab_size:
        raise UserError(
            f"the tokenizer's vocabulary of {prepared.tokenizer.vocab_size} is larger than the "
            f"model's, model.vocab_size={vocab_size}; raise it"
        )
    return prepared


def abstract_state(parts: PretrainingParts) -> TrainState:
    """Shapes, dtypes and shardings of the state, without any array; see `with_shardings`."""
    return with_shardings(jax.eval_shape(parts.init, jax.random.key(0)), parts.mesh)


def with_shardings(shapes: TrainState, mesh: Mesh) -> TrainState:
    """The shapes and dtypes of a state, with shardings of this mesh.

    Raises:
      UserError: the mesh cannot divide a parameter; see `param_rules.params_sharding`.
    """
    shardings = compile.state_sharding(shapes, mesh)
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def shardings_of(abstract: TrainState) -> TrainState:
    """The shardings of `with_shardings`, as `jax.jit` takes them."""
    return jax.tree.map(lambda x: x.sharding, abstract)


def flops_per_token(
    parts: PretrainingParts, objective: Objective, abstract: TrainState, seq_len: int
) -> float:
    """Counts the training FLOPs of one token of a row; see `flops.train_flops`."""
    c, params = parts.model.config, abstract.params
    # The objective says how many tokens are read and predicted: T5's are fewer than a row's.
    batch = jax.eval_shape(objective, abstract_rows(1, seq_len), jax.random.key(0))
    num_targets = batch.targets_BL.shape[1]
    output, d = c.vocab_size * c.model_dim, c.num_heads * c.head_dim
    if families.family_of(parts.model).architecture == "encoder_decoder":
        num_read = batch.inputs["encoder_tokens_BM"].shape[1]
        matrices = [
            (num_params(params["encoder"]), num_read),
            (num_params(params["decoder"]), num_targets),
        ]
        # The encoder's queries and keys, the decoder's, and those of its cross-attention.
        pairs = [(num_read, num_read), (num_targets, num_targets), (num_targets, num_read)]
    else:  # The output is counted below, for the predicted tokens alone.
        matrices = [(num_params(params) - output, seq_len)]
        pairs = [(seq_len, seq_len)]
    attention = [(c.num_layers, d, *pair) for pair in pairs]
    return flops.train_flops([*matrices, (output, num_targets)], attention) / seq_len


def make_step(
    parts: PretrainingParts, objective: Objective, abstract: TrainState
) -> tuple[Callable, Callable]:
    """Returns step(state, rows, key=...) -> (state, metrics), and what places its rows."""
    step = language_model.make_step(
        parts.loss_fn, objective, parts.tx, accumulate_steps=parts.accumulate_steps
    )
    return compile.compile_step(step, parts.strategy, parts.mesh, shardings_of(abstract))


def check_batch(
    data: ml_collections.ConfigDict, accumulate_steps: int, eval_batch_size: int, mesh: Mesh
) -> None:
    """Raises UserError unless the mesh can cut rows, and every micro-batch into rows."""
    # Each device has equally many rows of a micro-batch, and equal parts of a row.
    parts, sequence = num_batch_shards(mesh), mesh.shape["sequence"]
    if data.seq_len % sequence:
        raise UserError(
            f"data.seq_len={data.seq_len} cannot be cut into parallel.sequence={sequence} equal "
            "parts"
        )
    if data.batch_size % accumulate_steps:
        raise UserError(
            f"data.batch_size={data.batch_size} is not a multiple of "
            f"train.accumulate_steps={accumulate_steps}"
        )
    for key, rows in (
        ("data.batch_size / train.accumulate_steps", data.batch_size // accumulate_steps),
        ("eval.batch_size", eval_batch_size),
    ):
        if rows < 1 or rows % parts:
            raise UserError(
                f"{key} = {rows} rows cannot be divided over parallel.data x parallel.fsdp = "
                f"{parts}; choose at least {parts}, a multiple of {parts}"
            )
