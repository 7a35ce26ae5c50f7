"""A language model's training step and loss, and its evaluation."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jax.sharding import Mesh

from lm.corpus.rows import Rows
from lm.losses import likelihood
from lm.models.parameters import Params
from lm.objectives.batch import Objective
from lm.parallel.mesh import with_mesh
from lm.parallel.param_rules import constrain_batch_sharding
from lm.train.step import LossFn, train_step


def make_step(
    loss_fn: LossFn,
    objective: Objective,
    tx: optax.GradientTransformation,
    *,
    accumulate_steps: int,
) -> Callable:
    """Returns step(state, rows, key, axis_name=None) -> (state, metrics), which is to be jitted.

    Args:
      loss_fn: see `make_loss_fn`.
      objective: (rows, key) -> batch: of packed token ids, the inputs, targets and weights.
      tx, accumulate_steps: see `train_step`.
    """

    def step(state, rows, key, *, axis_name=None):
        return train_step(
            state,
            objective(rows, objective_key(key, state.step)),
            key,
            loss_fn=loss_fn,
            tx=tx,
            accumulate_steps=accumulate_steps,
            num_seen=jnp.sum(rows.segment_ids_BL > 0),  # Of masked text, the loss counts a part.
            axis_name=axis_name,
        )

    return step


def make_loss_fn(
    model: nn.Module, *, z_loss: float, label_smoothing: float, num_blocks: int
) -> LossFn:
    """Returns loss_fn(params, batch, dropout key) -> sums; see `output_cross_entropy`."""

    def loss_fn(params, batch, key):
        output = model.apply(
            {"params": params}, **batch.inputs, deterministic=False, rngs={"dropout": key}
        )
        # These are lazy logits, so that a loss in blocks never makes all of B x L x V at once.
        return likelihood.output_cross_entropy(
            output,
            batch.targets_BL,
            batch.weights_BL,
            z_loss=z_loss,
            label_smoothing=label_smoothing,
            num_blocks=num_blocks,
        )

    return loss_fn


def make_eval_step(
    model: nn.Module, objective: Objective, mesh: Mesh, num_blocks: int = 1
) -> Callable[[Params, Rows], likelihood.Sums]:
    """Returns eval_step(params, rows) -> sums, without dropout, smoothing or penalties."""

    def eval_step(params, rows):
        # One key for all: what is masked depends on the row alone, so evaluations ask the same.
        batch = objective(rows, jax.random.key(0))
        output = model.apply({"params": params}, **batch.inputs)
        return likelihood.output_cross_entropy(
            output, batch.targets_BL, batch.weights_BL, num_blocks=num_blocks
        )

    return with_mesh(jax.jit(constrain_batch_sharding(eval_step, mesh)))


def objective_key(key: jax.Array, step: jax.Array) -> jax.Array:
    """Returns the key that the objective of a step draws from."""
    # Micro-batches fold 0, 1, 2, ... into the step's key for their dropout, and never this number.
    return jax.random.fold_in(jax.random.fold_in(key, step), 2**31 - 1)
