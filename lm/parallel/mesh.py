"""The mesh of devices: how it is made, and which shard of a batch each process reads."""

import functools
import math
from collections.abc import Callable, Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.errors import UserError
from lm.settings import choose


def make_mesh(
    *,
    strategy: str,
    data: int,
    fsdp: int,
    tensor: int,
    sequence: int,
    devices: Sequence[jax.Device] | int | None = None,
) -> Mesh | AbstractMesh:
    """Makes a (data, fsdp, tensor, sequence) mesh; one size may be -1 and takes what is left.

    XLA chooses the collectives (Auto axes), because under Explicit ones a token lookup in a sharded
    table must name its own output sharding.

    Args:
      strategy: "jit", or "pmap", which knows no axis but `data`.
      data: copies of the parameters, each for its own rows.
      fsdp: parts that each copy is cut into, gathered where they are used; each for its own rows.
      tensor: parts that heads, MLPs and the vocabulary are cut into.
      sequence: parts that rows are cut into.
      devices: None for all; a number gives a mesh of shapes alone, whose devices need not exist.

    Raises:
      UserError: a grid that the devices do not fill, or an unknown strategy.
    """
    num_devices = devices if isinstance(devices, int) else len(devices or jax.devices())
    given = {"data": data, "fsdp": fsdp, "tensor": tensor, "sequence": sequence}
    choose("parallel.strategy", strategy, ("jit", "pmap"))
    sizes, asked = dict(given), [f"parallel.{a}={n}" for a, n in given.items() if n != 1]
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(f"{' and '.join(asked)}: only one axis can be what is left")
    if free:  # The product has the -1 as a factor, whose sign is taken off again.
        sizes[free[0]] = num_devices // max(1, -math.prod(sizes.values()))
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != num_devices:
        raise UserError(
            f"{' x '.join(asked) or 'parallel.data=1'} does not fill the {num_devices} devices "
            "here; set one axis to -1, which is what is left"
        )
    if strategy == "pmap" and jax.process_count() > 1:
        raise UserError("parallel.strategy=pmap is for one process; take parallel.strategy=jit")
    if strategy == "pmap" and sizes["data"] != num_devices:
        raise UserError(
            f"parallel.strategy=pmap copies the parameters to every device, and "
            f"{' x '.join(asked)} cuts them; take parallel.strategy=jit"
        )
    # Neighbouring devices differ along the last axes, tensor and sequence, which send most often.
    grid = tuple(sizes.values()), tuple(sizes)
    axis_types = (AxisType.Auto,) * len(sizes)
    if isinstance(devices, int):
        return AbstractMesh(*grid, axis_types=axis_types)
    return jax.make_mesh(*grid, axis_types=axis_types, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds whole."""
    return NamedSharding(mesh, P())


def with_mesh(jitted: Callable) -> Callable:
    """Traces under the mesh of its first argument; Pallas and cuDNN kernels need it."""

    @functools.wraps(jitted)
    def call(first, *rest, **more):
        sharding = getattr(jax.tree.leaves(first)[0], "sharding", None)
        if not isinstance(sharding, NamedSharding) or sharding.mesh.size == 1:
            return jitted(first, *rest, **more)
        # Kernels divide their own work by it, which XLA cannot; see `lm.models.kernels`.
        with jax.set_mesh(sharding.mesh):
            return jitted(first, *rest, **more)

    return call


def num_batch_shards(mesh: Mesh) -> int:
    """Returns how many shards the rows of a batch are divided into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def divisible(num_rows: int, mesh: Mesh) -> int:
    """Rounds a number of rows up to what shards divide, where empty rows change no result."""
    parts = num_batch_shards(mesh)
    return -(-num_rows // parts) * parts


def process_shard(mesh: Mesh) -> tuple[int, int]:
    """Returns which shard of a batch's rows this process reads, and of how many.

    Raises UserError where the processes cannot have shards of one size.
    """
    parts = num_batch_shards(mesh)
    parts_of: dict[int, set[int]] = {}
    # Devices along tensor and sequence share their rows: processes that hold them read the same.
    for part, devices in enumerate(mesh.devices.reshape(parts, -1)):
        for device in devices:
            parts_of.setdefault(device.process_index, set()).add(part)
    for theirs in parts_of.values():  # All of them, so that every process comes to one conclusion.
        first, count = min(theirs), len(theirs)
        if max(theirs) - first + 1 != count or parts % count or first % count:
            raise UserError(
                f"the rows of a batch, cut into parallel.data x parallel.fsdp = {parts} parts, "
                f"cannot be shared evenly by {len(parts_of)} processes; choose other sizes"
            )
    mine = parts_of[jax.process_index()]
    return min(mine) // len(mine), parts // len(mine)
