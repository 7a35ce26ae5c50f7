"""What every test shares: strict numerics, simulated devices, and a cache of compiled programs."""

import atexit
import gc
import os
import pathlib
import shutil
import signal
import tempfile

from benchmarks import quick_compilation

# Threads of torch and BLAS that wait for work spin, on cores that XLA and the other worker need.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# A shell starts what it leaves in the background with interrupts ignored, which is inherited.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Compilation is the budget of this suite.
os.environ["XLA_FLAGS"] = f"{quick_compilation.FLAGS} {os.environ.get('XLA_FLAGS', '')}"

import jax
import numpy as np
import pytest

# One cache for a whole session, shared by the workers of pytest-xdist and the runs that tests
# start, which inherit the name. Whoever made it removes it.
if "LM_TESTS_CACHE" not in os.environ:
    os.environ["LM_TESTS_CACHE"] = tempfile.mkdtemp(prefix="lm-tests-")
    atexit.register(shutil.rmtree, os.environ["LM_TESTS_CACHE"], ignore_errors=True)
_CACHE = pathlib.Path(os.environ["LM_TESTS_CACHE"])
os.environ["LM_CACHE"] = str(_CACHE)

jax.config.update("jax_num_cpu_devices", 2)  # All that runs here is sharded.
jax.config.update("jax_cpu_enable_async_dispatch", False)  # Fewer cores than devices.
jax.config.update("jax_numpy_rank_promotion", "raise")  # No accidental broadcasts.
jax.config.update("jax_compilation_cache_dir", str(_CACHE / "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


def pytest_collection_finish():
    # Full collections took 5 % of the time, passing again and again over what is imported. What is
    # young is collected as often as ever.
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 100)


@pytest.fixture(scope="module", autouse=True)
def _room_for_programs():
    # Each compiled program maps memory, of which a process may have 65,530 mappings by Linux's
    # default; a worker gathers tens of thousands, and XLA fails where there are no more.
    yield
    mappings = pathlib.Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > 20_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Globs of the beginnings of a few dozen files to train on, and of others to validate with."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = sorted((pathlib.Path(__file__).parent.parent / "lm").rglob("*.py"))
    for i, source in enumerate(sources):
        kind = "validation" if i % 10 == 0 else "train"
        (folder / f"{i}.{kind}.txt").write_text(source.read_text()[:3000])
    return {kind: f"{folder}/*.{kind}.txt" for kind in ("train", "validation")}


@pytest.fixture(scope="session")
def random_like():
    """(tree of shapes, scale) -> a tree of float32 noise, made by NumPy: nothing to compile."""

    def make(shapes, scale=0.3, seed=0):
        rng = np.random.default_rng(seed)
        draw = lambda x: (scale * rng.standard_normal(x.shape)).astype(np.float32)
        return jax.tree.map(draw, shapes)

    return make
