import os
import subprocess
import sys

import pytest

_PAGE_FAULTS = """
import resource
from lm.system import allocator

allocator.keep_freed_memory()
import jax, jax.numpy as jnp

step = jax.jit(lambda x: x + 1)
x = jnp.zeros(2**22)
for _ in range(30):  # Until the heap has a place for every size.
    x = jax.block_until_ready(step(x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    x = jax.block_until_ready(step(x))
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""

_GROWTH = """
import ctypes
from lm.system import allocator

allocator.keep_freed_memory()
libc = ctypes.CDLL(None)
libc.aligned_alloc.argtypes, libc.aligned_alloc.restype = [ctypes.c_size_t] * 2, ctypes.c_void_p
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
libc.sbrk.restype = ctypes.c_void_p
hole, _ = libc.malloc(2**20), libc.malloc(2**10)
libc.free(hole)  # Small blocks need not come from where the large one lay.
for step in range(8):
    workspace = libc.aligned_alloc(64, 2**25)
    libc.free(workspace)
    allocator.settle()
    kept = [libc.malloc(num_bytes) for num_bytes in range(24, 120, 16)]  # For good.
    if step == 1:
        before = libc.sbrk(0)
print(libc.sbrk(0) - before)
"""


_HOLES = """
import ctypes
from lm.system import allocator

libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
if {keeps}:
    allocator.keep_freed_memory()
blocks = [libc.malloc(2048 + 16 * (i % 3000)) for i in range(9000)]
for block in blocks[::2]:  # What is between them cannot grow together.
    libc.free(block)
count = lambda: sum(num for size, num in allocator._holes(allocator._libc()) if size >= 2048)
before = count()
allocator.fill_holes()
print(before, count())
"""


@pytest.mark.parametrize("keeps", [True, False])
def test_holes_are_filled_where_freed_memory_is_kept(keeps):
    run = subprocess.run(
        [sys.executable, "-c", _HOLES.format(keeps=keeps)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )

    before, after = map(int, run.stdout.split())
    assert before > 4000
    assert after < 100 if keeps else after == before


def test_a_step_reuses_the_memory_of_the_one_before():
    run = subprocess.run(
        [sys.executable, "-c", _PAGE_FAULTS],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )

    num_pages = 2**22 * 4 / os.sysconf("SC_PAGE_SIZE")
    assert float(run.stdout) < num_pages / 2


def test_the_heap_has_one_place_for_the_workspace_of_all_steps():
    run = subprocess.run(
        [sys.executable, "-c", _GROWTH],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(run.stdout) < 2**25


_KEPT = """
import launch
from lm.system import allocator

allocator.keep_freed_memory = lambda: print("kept")
launch._dispatch = lambda config: 0
launch.main(["launch.py", *{args}])
"""


@pytest.mark.parametrize(("name", "is_kept"), [("quickstart", True), ("predict", False)])
def test_freed_memory_goes_back_where_shapes_have_no_end(name, is_kept):
    run = subprocess.run(
        [sys.executable, "-c", _KEPT.format(args=[f"--config=configs/{name}.py"])],
        capture_output=True,
        text=True,
        check=True,
    )

    assert ("kept" in run.stdout) == is_kept
