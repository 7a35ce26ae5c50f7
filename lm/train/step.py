"""The training step: a pure function from (state, batch) to (state, metrics)."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lm.losses.likelihood import Sums
from lm.models.parameters import Params


@struct.dataclass
class TrainState:
    """All that a checkpoint must hold, and nothing that it must not."""

    step: jax.Array  # Keys are folds of the run's key by this number, so that no key is kept.
    params: Params
    opt_state: optax.OptState  # With the averaged weights, where there are any.

    @classmethod
    def create(cls, params: Params, tx: optax.GradientTransformation) -> "TrainState":
        """Makes the state before the first step."""
        return cls(jnp.zeros((), jnp.int32), params, tx.init(params))


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
    num_seen: jax.Array | None = None,
    axis_name: str | None = None,
) -> tuple[TrainState, Metrics]:
    """Makes one optimiser update from one global batch.

    A loss or gradient that is not finite changes nothing but the step count: parameters and
    optimiser state stay as they were, and "skipped" is 1.

    Args:
      state: donated by the caller.
      batch: arrays of B rows; B is a multiple of `accumulate_steps`.
      key: the run's key; the step and the micro-batch are folded in here.
      loss_fn: see `LossFn`.
      tx: the optimiser, clipping and schedule included.
      accumulate_steps: micro-batches, whose sums are added before the one division.
      num_seen: the tokens of the batch, where more are read than are in the loss.
      axis_name: under `jax.pmap`, over what to add up; `batch` is then one device's part.

    Returns:
      The next state, and scalars: "loss" (nats a token), "grad_norm" (before clipping),
      "num_tokens", "skipped".
    """
    key = jax.random.fold_in(key, state.step)  # A resumed run draws what this one would have.
    grads, sums = summed_gradients(state.params, batch, key, loss_fn, accumulate_steps)
    num_seen = sums["num_tokens"] if num_seen is None else num_seen
    if axis_name is not None:
        grads, sums, num_seen = jax.lax.psum((grads, sums, num_seen), axis_name)
    # The one division. Parts of a batch hold unequal numbers of tokens: their means would not add.
    num_tokens = jnp.maximum(sums["num_tokens"], 1.0)  # No target at all: 0 / 1, not NaN.
    grads = jax.tree.map(lambda g: g / num_tokens, grads)
    grad_norm = optax.tree.norm(grads)

    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    # The norm is NaN or infinite if any gradient is, so this one scalar speaks for all of them.
    finite = jnp.isfinite(sums["loss"]) & jnp.isfinite(grad_norm)
    keep = lambda new, old: jnp.where(finite, new, old)
    metrics = {
        "loss": sums["nll"] / num_tokens,  # Without penalties and smoothing, unlike sums["loss"].
        "grad_norm": grad_norm,
        "num_tokens": num_seen,
        "skipped": 1.0 - finite.astype(jnp.float32),
    }
    params = jax.tree.map(keep, params, state.params)
    opt_state = jax.tree.map(keep, opt_state, state.opt_state)  # One NaN in a moment would stay.
    return TrainState(state.step + 1, params, opt_state), metrics


def summed_gradients(
    params: Params, batch: Any, key: jax.Array, loss_fn: LossFn, accumulate_steps: int
) -> tuple[Params, Sums]:
    """Returns the gradient of the summed loss over the whole batch, and the sums themselves."""

    def loss(params, micro_batch, micro_key):
        sums = loss_fn(params, micro_batch, micro_key)
        return sums["loss"], sums

    gradients = functools.partial(jax.grad(loss, has_aux=True), params)
    if accumulate_steps == 1:  # Micro-batch 0 draws the same dropout with and without a loop.
        return gradients(batch, jax.random.fold_in(key, 0))

    def split(x):
        # Micro-batch i takes rows i, i + A, i + 2A, ...: each device keeps the rows that it has.
        return x.reshape(-1, accumulate_steps, *x.shape[1:]).swapaxes(0, 1)

    def add(total, inputs):
        index, micro_batch = inputs
        new = gradients(micro_batch, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, total, new), None

    micro_batches = jax.tree.map(split, batch)
    first = jax.tree.map(lambda x: x[0], micro_batches)
    shapes = jax.eval_shape(gradients, first, key)
    # In the dtypes of the gradients, which are the parameters', whatever the model computes in.
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(accumulate_steps), micro_batches))[0]
