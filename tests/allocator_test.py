import os
import subprocess
import sys

_PAGE_FAULTS = """
import resource
from lm import allocator

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
