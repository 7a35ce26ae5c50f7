"""Tells the C library what to do with memory that was freed."""

import ctypes
import importlib.metadata
import importlib.util
import os
import re

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # As in glibc's malloc.h.
_SMALLEST_HOLE_BYTES, _LARGEST_HOLE_BYTES = 1 << 10, 1 << 20

_keeps = False  # Whether `keep_freed_memory` had an effect.


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed memory back to the kernel, where JAX will run on the CPU.

    XLA's CPU client allocates its workspace anew at every step: a third of a step went into page
    faults (docs/performance.md). Call this before JAX starts its threads.
    """
    global _keeps
    # None with another C library than glibc: then nothing happens.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _only_cpus():
        _keeps = True
        # Other arenas cannot hold blocks of this size. A thread that has one already keeps it.
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)  # No block bypasses the heap.
        mallopt(_M_TRIM_THRESHOLD, -1)  # The heap never shrinks.


def fill_holes() -> None:
    """Takes up, for good, the small free blocks that the compiler left between those it keeps.

    The kernels' workspaces, which are allocated at every step, would be searched for in long lists
    of such blocks, under the one lock that all threads wait for; that took a quarter of a step
    (docs/performance.md). Does nothing but after `keep_freed_memory`.
    """
    if not _keeps:
        return
    libc = ctypes.CDLL(None)
    for _ in range(2):  # Once more for what is left of blocks larger than the smallest of a list.
        for smallest_bytes, num in reversed(_holes(libc)):
            if _SMALLEST_HOLE_BYTES <= smallest_bytes <= _LARGEST_HOLE_BYTES:
                for _ in range(num):
                    libc.malloc(smallest_bytes - 2 * ctypes.sizeof(ctypes.c_size_t))


def _holes(libc: ctypes.CDLL) -> list[tuple[int, int]]:
    """Returns malloc_info(3)'s lists of free blocks: bytes of the smallest, and their number."""
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.open_memstream.restype = ctypes.c_void_p
    libc.malloc_info.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.fclose.argtypes = libc.free.argtypes = [ctypes.c_void_p]
    libc.free(libc.malloc(_LARGEST_HOLE_BYTES))  # What was freed of late is put into its list.
    text, size = ctypes.c_void_p(), ctypes.c_size_t()
    stream = libc.open_memstream(ctypes.byref(text), ctypes.byref(size))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    heap, _, _ = ctypes.string_at(text, size.value).decode().partition("</heap>")
    libc.free(text)
    found = re.findall(r'<size from="(\d+)" to="\d+" total="\d+" count="(\d+)"', heap)
    return [(int(smallest), int(num)) for smallest, num in found]


def _only_cpus() -> bool:
    """Whether JAX was told to use CPUs or has nothing installed for another device."""
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not (
        plugins or importlib.util.find_spec("libtpu")
    )
