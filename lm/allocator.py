"""What the C library does with memory that was freed."""

import ctypes
import importlib.metadata
import importlib.util
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # As in glibc's malloc.h.


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed memory back to the kernel, where JAX will run on the CPU.

    XLA's CPU client allocates its workspace anew at every step: a third of a step went into page
    faults (docs/performance.md). Call this before JAX starts its threads: one that has made an
    arena of its own keeps it. With another C library nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _only_cpus():
        mallopt(_M_ARENA_MAX, 1)  # Other arenas cannot hold blocks of this size.
        mallopt(_M_MMAP_MAX, 0)  # No block bypasses the heap.
        mallopt(_M_TRIM_THRESHOLD, -1)  # The heap never shrinks.


def _only_cpus() -> bool:
    """Whether JAX was told to use CPUs or has nothing installed for another device."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not (
        plugins or importlib.util.find_spec("libtpu")
    )
