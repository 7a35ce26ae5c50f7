#!/bin/bash
# Guess:     what jax.pmap gives back whole (out_axes=None) is as if it had stayed on the mesh that it came from: its
#            sharding is equivalent, so any function that takes arrays of that mesh takes it too.
# Instead:   it lies on a mesh of its own, whose one axis is pmap's. Sums, products and choices with arrays of the first
#            mesh work all the same, also under jax.set_mesh of its mesh; jax.random.fold_in of a key by such an array
#            raises ShardingTypeError there. So code that draws nothing runs, and code that draws does not.
# Versions:  jax 0.10.2, 2026-11-29, on CPU
# Output:    axes of the mesh: ['data'] before, ['batch'] after; equivalent: True
#            add: ok; choose: ok; product: ok; fold_in: ShardingTypeError
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q jax==0.10.2
cat > "$folder/show.py" <<'PY'
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P

mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
before = jax.device_put(jnp.ones(4), NamedSharding(mesh, P()))
rows = jax.device_put(jnp.arange(8), NamedSharding(mesh, P("data")))
step = jax.pmap(
    lambda w, x: w - jax.lax.psum(x.sum(), "batch"), axis_name="batch", in_axes=(None, 0), out_axes=None
)
after = step(before, jnp.ones((4, 2)))
axes = [list(x.sharding.mesh.axis_names) for x in (before, after)]
equivalent = after.sharding.is_equivalent_to(before.sharding, after.ndim)
print(f"axes of the mesh: {axes[0]} before, {axes[1]} after; equivalent: {equivalent}")


def ends(function):
    try:
        with jax.set_mesh(after.sharding.mesh):
            jax.block_until_ready(jax.jit(function)(after, rows))
        return "ok"
    except Exception as error:
        return type(error).__name__


key = jax.random.key(0)
found = {
    "add": ends(lambda w, x: w.sum() + x),
    "choose": ends(lambda w, x: jnp.where(x > 3, w[0], 0.0)),
    "product": ends(lambda w, x: jnp.outer(w, x)),
    "fold_in": ends(lambda w, x: jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i)))(x) * w[0]),
}
print("; ".join(f"{name}: {how}" for name, how in found.items()))
assert axes == [["data"], ["batch"]] and equivalent
assert list(found.values()) == ["ok", "ok", "ok", "ShardingTypeError"]
PY
JAX_PLATFORMS=cpu XLA_FLAGS=--xla_force_host_platform_device_count=4 "$folder/venv/bin/python" "$folder/show.py"
