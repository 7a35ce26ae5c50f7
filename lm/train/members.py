"""Many runs as one program: their states stacked along a first dimension, their steps mapped.

No device cuts that dimension: behind it each state, and each batch, lies on the mesh as it does
when the run is alone. The step count is one for all.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.train import sharding
from lm.train.state import TrainState

_AXES = TrainState(None, 0, 0)


def compile_step(step: Callable, mesh: Mesh, abstract: TrainState) -> Callable:
    """(states, batches, ...) -> (states, metrics), all stacked; the states are donated.

    Args:
      step: (state, batch, ...) -> (state, metrics), of one run.
      mesh: of each run.
      abstract: shapes and shardings of one state.
    """
    mapped = jax.vmap(
        lambda state, more: step(state, *more), in_axes=(_AXES, 0), out_axes=(_AXES, 0)
    )
    compiled = jax.jit(mapped, donate_argnums=0, out_shardings=(_stacked(abstract), None))
    compiled = sharding.in_mesh(compiled)

    def place(x: np.ndarray) -> jax.Array:
        spec = P(None, *sharding.batch_spec(x[0], mesh))
        return jax.device_put(x, NamedSharding(mesh, spec))

    return lambda states, batches, *more: compiled(states, (jax.tree.map(place, batches), *more))


def stack(states: Sequence[TrainState], abstract: TrainState) -> TrainState:
    """The states of some runs, all at one step, as one."""
    shardings = _stacked(abstract)
    join = jax.jit(
        lambda *trees: jax.tree.map(lambda *xs: jnp.stack(xs), *trees),
        out_shardings=(shardings.params, shardings.opt_state),
    )
    return TrainState(states[0].step, *join(*((s.params, s.opt_state) for s in states)))


def make_pick(abstract: TrainState) -> Callable[[TrainState, int], TrainState]:
    """(states, i) -> the state of run i, as it is when that is alone."""

    @functools.partial(jax.jit, out_shardings=jax.tree.map(lambda x: x.sharding, abstract))
    def pick(states, i):
        one = lambda tree: jax.tree.map(lambda x: x[i], tree)
        return TrainState(states.step, one(states.params), one(states.opt_state))

    return pick


def stacked_batches(iterators: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """The batches of each step, stacked; an iterator that stands twice gives both runs the same."""
    distinct = {id(iterator): iterator for iterator in iterators}
    for batches in zip(*distinct.values(), strict=True):
        by_id = dict(zip(distinct, batches, strict=True))
        yield jax.tree.map(lambda *xs: np.stack(xs), *(by_id[id(i)] for i in iterators))


def _stacked(abstract: TrainState) -> TrainState:
    """The shardings of many states."""
    stacked = lambda x: NamedSharding(x.sharding.mesh, P(None, *x.sharding.spec))
    return jax.tree.map(stacked, abstract).replace(step=abstract.step.sharding)
