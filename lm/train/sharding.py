"""Where arrays live. The model never mentions a device; this file does."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from lm.errors import UserError


def make_mesh(*, data: int, fsdp: int) -> Mesh:
    """All devices as a grid: `data` copies of the parameters, each cut into `fsdp` parts.

    One of the two may be -1: what is left. XLA chooses the collectives (Auto axes), because under
    Explicit ones a token lookup in a sharded table must name its own output sharding.

    Raises:
      UserError: a grid that the devices do not fill.
    """
    num_devices = jax.device_count()
    sizes = {"data": data, "fsdp": fsdp}
    free = [axis for axis, size in sizes.items() if size == -1]
    if len(free) > 1:
        raise UserError(
            "parallel.data=-1 and parallel.fsdp=-1: only one of them can be what is left"
        )
    if free:
        sizes[free[0]] = num_devices // max(1, -data * fsdp)
    if min(sizes.values()) < 1 or sizes["data"] * sizes["fsdp"] != num_devices:
        raise UserError(
            f"parallel.data={data} x parallel.fsdp={fsdp} does not fill the {num_devices} devices "
            "here; set one of them to -1"
        )
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 2)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the leading axis of a batch over every device."""
    return NamedSharding(mesh, P(("data", "fsdp")))


def state_sharding(tree, mesh: Mesh):
    """Cuts each array along its largest dimension that `fsdp` divides; leaves the rest whole."""
    parts = mesh.shape["fsdp"]

    def sharding(x):
        fits = [i for i, n in enumerate(x.shape) if n >= parts and n % parts == 0]
        if parts == 1 or not fits:
            return NamedSharding(mesh, P())
        axis = max(fits, key=lambda i: x.shape[i])
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    return jax.tree.map(sharding, tree)
