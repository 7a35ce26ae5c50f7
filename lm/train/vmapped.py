"""Trains many runs as one program: a step is mapped over states that are stacked in front.

Devices cut that dimension and no other: each trains whole runs, and sends the others nothing. An
accelerator computes its runs at once, a core of a CPU one after the other.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.train.step import TrainState

_AXIS = "members"


def make_mesh(num_members: int) -> Mesh:
    """Makes a mesh of as many of this process's devices as there is work for."""
    devices = jax.local_devices()[:num_members]
    return jax.make_mesh((len(devices),), (_AXIS,), axis_types=(AxisType.Auto,), devices=devices)


def padded(items: Sequence[Any], mesh: Mesh) -> list[Any]:
    """Repeats the last item until each device has equally many."""
    return [*items, *[items[-1]] * (-len(items) % mesh.size)]


def compile_step(step: Callable, mesh: Mesh) -> Callable:
    """Returns step(states, batch, ...) -> (states, metrics), all stacked; the states are donated.

    Args:
      step: (state, batch, ...) -> (state, metrics), of one run; `...` is given by name.
      mesh: see `make_mesh`; it must divide what is stacked.
    """

    def step_all(states, batch, more):
        def step_one(params, opt_state, batch, more):
            return step(TrainState(states.step, params, opt_state), batch, **more)

        after, metrics = _mapped(step_one, mesh)(states.params, states.opt_state, batch, more)
        return dataclasses.replace(after, step=after.step[0]), metrics

    many = TrainState(P(), P(_AXIS), P(_AXIS))  # The step count is one for all.
    on_devices = jax.shard_map(
        step_all,
        mesh=mesh,
        in_specs=(many, P(_AXIS), P(_AXIS)),
        out_specs=(many, P(_AXIS)),
        check_vma=False,
    )

    @functools.partial(jax.jit, donate_argnums=0)
    def compiled(states, batch, **more):
        return on_devices(states, batch, more)

    return compiled


def place(stacked: Any, mesh: Mesh) -> Any:
    """Puts what is stacked in NumPy on the devices, each of which gets that of its runs."""
    return jax.device_put(stacked, _cut(mesh))


def compile_evaluation(eval_step: Callable, mesh: Mesh) -> Callable:
    """Maps `eval_step` over runs: (stacked params, batch) -> stacked sums."""

    def evaluate_all(params, batch):
        return _mapped(lambda one: eval_step(one, batch), mesh)(params)

    on_devices = jax.shard_map(
        evaluate_all, mesh=mesh, in_specs=(P(_AXIS), P()), out_specs=P(_AXIS), check_vma=False
    )
    return jax.jit(on_devices)


def is_in_turn(mesh: Mesh) -> bool:
    """Whether a device computes its runs one after the other."""
    # On a CPU a step takes as long as all at once, and evaluation less: docs/performance.md.
    return mesh.devices.flat[0].platform == "cpu"


def _mapped(act: Callable, mesh: Mesh) -> Callable:
    if is_in_turn(mesh):
        return lambda *stacked: jax.lax.map(lambda one: act(*one), stacked)
    return jax.vmap(act)


def stack(states: Sequence[TrainState], mesh: Mesh) -> TrainState:
    """Stacks states of one step into one, cut over the devices."""
    # By the host, since the states may lie on meshes of their own.
    join = lambda *xs: jax.device_put(np.stack(jax.device_get(xs)), _cut(mesh))
    step = jax.device_put(jax.device_get(states[0].step), NamedSharding(mesh, P()))
    params, opt_state = jax.tree.map(join, *((s.params, s.opt_state) for s in states))
    return TrainState(step, params, opt_state)


def pick(states: TrainState, i: int, like: TrainState) -> TrainState:
    """Returns the state of run i in the shardings of `like`, of which shapes are enough."""
    state = TrainState(states.step, *_at((states.params, states.opt_state), i))
    return jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, like)


@jax.jit  # An operation for each array would be compiled and started by itself.
def _at(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), tree)


def stacked_batches(iterators: Sequence[Iterator[Any]]) -> Iterator[Any]:
    """Stacks the batches of each step."""
    # An iterator that stands twice is advanced once, and gives both runs the same batch.
    distinct = {id(iterator): iterator for iterator in iterators}
    for batches in zip(*distinct.values(), strict=True):
        by_id = dict(zip(distinct, batches, strict=True))
        yield jax.tree.map(lambda *xs: np.stack(xs), *(by_id[id(i)] for i in iterators))


def _cut(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P(_AXIS))
