import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm.costs.collectives import Traffic, collectives_of, sent_bytes
from lm.parallel.mesh import make_mesh

NUM_TRIPS = 3


def test_a_known_program_sends_what_one_counts_by_hand():
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))

    @jax.shard_map(mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
    def program(x):  # 8 x 16 float32 a device: 512 bytes.
        def body(x, _):
            x = x + jax.lax.psum(x, "x")
            x = x + jnp.sum(jax.lax.all_gather(x[:3], "x"))  # 2 x 3 x 16: 384 bytes.
            x = x + jnp.sum(jax.lax.psum_scatter(x[:4], "x", tiled=True))  # Of 256 bytes.
            x = x + jnp.max(jax.lax.all_to_all(x, "x", 0, 0, tiled=True))
            return x + jax.lax.ppermute(x, "x", [(0, 1), (1, 0)]), None

        return jax.lax.scan(body, x, length=NUM_TRIPS)[0]

    text = jax.jit(program).lower(np.zeros((16, 16), np.float32)).compile().as_text()
    found = collectives_of(text, {"x": 2})

    payloads = {kind: t.payload_bytes / NUM_TRIPS for (kind, axes), t in found.items()}
    assert payloads == {
        "all-reduce": 512,
        "all-gather": 384,
        "reduce-scatter": 256,
        "all-to-all": 512,
        "collective-permute": 512,
    }
    assert {axes for _, axes in found} == {("x",)}


def test_an_all_reduce_of_which_a_slice_is_kept_is_a_reduce_scatter():
    mesh = make_mesh(strategy="jit", data=1, fsdp=2, tensor=1, sequence=1)
    place = lambda *spec: NamedSharding(mesh, P(*spec))
    product = lambda shardings: (
        jax.jit(lambda x, y: (x.T @ y, x.T @ x), out_shardings=shardings)
        .lower(
            *[jax.ShapeDtypeStruct((8, n), jnp.float32, sharding=place("fsdp")) for n in (16, 4)]
        )
        .compile()
        .as_text()
    )

    found = collectives_of(product((place(None, "fsdp"), place())), mesh.shape)

    assert found == {
        ("reduce-scatter", ("fsdp",)): Traffic(1, 16 * 4 * 4),
        ("all-reduce", ("fsdp",)): Traffic(1, 16 * 16 * 4),
    }


COMBINED = """
%sliced (p0: s32[], p1: f32[8,4]) -> f32[4,4] {
  %p0 = s32[] parameter(0)
  %p1 = f32[8,4]{1,0} parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[4,4]{1,0} dynamic-slice(%p1, %p0, %zero), dynamic_slice_sizes={4,4}
}

%kept (p2: f32[4,8]) -> f32[4,8] {
  %p2 = f32[4,8]{1,0} parameter(0)
  ROOT %minus = f32[4,8]{1,0} negate(%p2)
}

ENTRY %main (x: f32[4,8], at: s32[]) -> (f32[4,8], f32[4,4], f32[1,8]) {
  %x = f32[4,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %sums = (f32[4,8]{1,0}, f32[4,8]{1,0}, /*index=2*/f32[4,8]{1,0}) all-reduce(%x, %x, %x), \
replica_groups={{0,1}}, to_apply=%add
  %first = f32[4,8]{1,0} get-tuple-element(%sums), index=0
  %second = f32[4,8]{1,0} get-tuple-element((f32[4,8]{1,0}, f32[4,8]{1,0}) %sums), index=1
  %third = f32[4,8]{1,0} get-tuple-element(%sums), index=2
  %whole = f32[4,8]{1,0} fusion(%first), kind=kLoop, calls=%kept
  %turned = f32[8,4]{0,1} transpose(%second), dimensions={1,0}
  %half = f32[4,4]{1,0} fusion(%at, %turned), kind=kLoop, calls=%sliced
  %row = f32[1,8]{1,0} dynamic-slice(%third, %at, %at), dynamic_slice_sizes={1,8}
  ROOT %out = (f32[4,8]{1,0}, f32[4,4]{1,0}, f32[1,8]{1,0}) tuple(%whole, %half, %row)
}
"""


def test_of_arrays_that_are_reduced_together_only_one_is_scattered():
    found = collectives_of(COMBINED, {"x": 2})

    num_bytes = 4 * 8 * 4
    assert found == {
        ("reduce-scatter", ("x",)): Traffic(1, num_bytes),
        ("all-reduce", ("x",)): Traffic(2, 2 * num_bytes),
    }


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("replica_groups={{0,1},{2,3},{4,5},{6,7}}", ("tensor",)),
        ("replica_groups={{0,2,4,6},{1,3,5,7}}", ("data", "fsdp")),
        ("replica_groups={}", ("data", "fsdp", "tensor")),
        ("replica_groups=[4,2]<=[8]", ("tensor",)),
        ("replica_groups=[4,2]<=[2,2,2]T(0,2,1)", ("fsdp",)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ("data", "fsdp")),
        ("replica_groups=mesh['a'=4,'b'=2] {'b'}", ("tensor",)),
        ("replica_groups=mesh['a'=2,'b'=2,'c'=2] {'a','c'}", ("data", "tensor")),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'a'}", ("tensor",)),
        ("source_target_pairs={{0,4},{4,0},{1,5},{5,1}}", ("data",)),
    ],
)
def test_groups_are_read_however_they_are_written(groups, axes):
    kind = "collective-permute" if "pairs" in groups else "all-gather"
    hlo = f"ENTRY %main (x: f32[4]) -> f32[8] {{\n  ROOT %g = f32[8]{{0}} {kind}(%x), {groups}\n}}"

    found = collectives_of(hlo, {"data": 2, "fsdp": 2, "tensor": 2})

    assert found == {(kind, axes): Traffic(1, 32)}


def test_a_ring_of_four_sends_three_quarters_and_an_all_reduce_goes_round_twice():
    assert sent_bytes("all-gather", 400, 4) == sent_bytes("reduce-scatter", 400, 4) == 300
    assert sent_bytes("all-to-all", 400, 4) == 300
    assert sent_bytes("all-reduce", 400, 4) == 600
    assert sent_bytes("collective-permute", 400, 4) == 400
    assert sent_bytes("all-reduce", 400, 1) == 0
