"""The training step: a pure function from (state, batch) to (state, metrics)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm.losses.likelihood import Sums
from lm.models.parameters import Params
from lm.train.state import TrainState

# (params, batch, dropout key) -> sums. Batches are pytrees of arrays with a leading batch axis.
LossFn = Callable[[Params, Any, jax.Array], Sums]
Metrics = dict[str, jax.Array]
StepFn = Callable[[TrainState, Any], tuple[TrainState, Metrics]]


def train_step(
    state: TrainState,
    batch: Any,
    key: jax.Array,
    *,
    loss_fn: LossFn,
    tx: optax.GradientTransformation,
    accumulate_steps: int,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """One optimiser update from one global batch.

    A loss or gradient that is not finite changes nothing but the step count: parameters and
    optimiser state stay as they were, and "skipped" is 1.

    Args:
      state: donated by the caller.
      batch: arrays of B rows; B is a multiple of `accumulate_steps`.
      key: the run's key; the step and the micro-batch are folded in here.
      loss_fn: see `LossFn`.
      tx: the optimiser, clipping and schedule included.
      accumulate_steps: micro-batches, whose sums are added before the one division.
      axis_name: under `jax.pmap`, over what to add up; `batch` is then one device's part.

    Returns:
      The next state, and scalars: "loss" (nats a token), "grad_norm" (before clipping),
      "num_tokens", "skipped".
    """
    key = jax.random.fold_in(key, state.step)
    grads, sums = summed_gradients(state.params, batch, key, loss_fn, accumulate_steps)
    if axis_name is not None:
        grads, sums = jax.lax.psum((grads, sums), axis_name)
    num_tokens = jnp.maximum(sums["num_tokens"], 1.0)
    grads = jax.tree.map(lambda g: g / num_tokens, grads)
    grad_norm = optax.tree.norm(grads)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
    keep = lambda new, old: jnp.where(finite, new, old)
    metrics = {
        "loss": sums["nll"] / num_tokens,
        "grad_norm": grad_norm,
        "num_tokens": sums["num_tokens"],
        "skipped": 1.0 - finite.astype(jnp.float32),
    }
    params = jax.tree.map(keep, params, state.params)
    opt_state = jax.tree.map(keep, opt_state, state.opt_state)
    return TrainState(state.step + 1, params, opt_state), metrics


def summed_gradients(
    params: Params, batch: Any, key: jax.Array, loss_fn: LossFn, accumulate_steps: int
) -> tuple[Params, Sums]:
    """Gradient of the summed loss over the whole batch, and the sums themselves."""

    def loss(params, micro_batch, micro_key):
        sums = loss_fn(params, micro_batch, micro_key)
        return sums["loss"], sums

    gradients = functools.partial(jax.grad(loss, has_aux=True), params)
    if accumulate_steps == 1:
        return gradients(batch, jax.random.fold_in(key, 0))

    def split(x):
        # Micro-batch i takes rows i, i + A, i + 2A, ...: each device keeps the rows that it has.
        return x.reshape(-1, accumulate_steps, *x.shape[1:]).swapaxes(0, 1)

    def add(total, inputs):
        index, micro_batch = inputs
        return jax.tree.map(jnp.add, total, gradients(micro_batch, jax.random.fold_in(key, index)))

    micro_batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], micro_batches)
    shapes = jax.eval_shape(gradients, first, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    indices = jnp.arange(accumulate_steps)
    total, _ = jax.lax.scan(lambda t, x: (add(t, x), None), zeros, (indices, micro_batches))
    return total
