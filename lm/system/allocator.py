"""Tells the C library what to do with memory that was freed."""

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import re
import sys

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # As in glibc's malloc.h.
_MADV_HUGEPAGE = 14  # As in the kernel's mman-common.h.
_FRAGMENT_BYTES = range(24, 120, 16)  # As glibc cuts off for an alignment to 64.
_CACHED_BY_THREAD = 7  # Free blocks of one size.
_LARGEST = 2 * sys.maxsize + 1  # size_t.
_SMALLEST_HOLE_BYTES, _LARGEST_HOLE_BYTES = 1 << 10, 1 << 20

_keeps = False  # Whether `keep_freed_memory` had an effect.
_heap_end = 0  # Where the heap ended when `settle` last looked.


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed memory back to the kernel, where JAX will run on the CPU.

    XLA's CPU client allocates its workspace anew at every step: a third of a step went into page
    faults (docs/performance.md). Call this before JAX starts its threads.
    """
    global _keeps, _heap_end
    # None with another C library than glibc: then nothing happens.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and _only_cpus():
        _keeps = True
        # Other arenas cannot hold blocks of this size. A thread that has one already keeps it.
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_MAX, 0)  # No block bypasses the heap.
        mallopt(_M_TRIM_THRESHOLD, -1)  # The heap never shrinks.
        _heap_end = _libc().sbrk(0)


def settle() -> None:
    """Makes free memory whole again, so that a step's workspace finds the place of the last one.

    glibc cuts aligned blocks out of larger ones, and each thread hands what it cuts off, under a
    hundred bytes, to the next who asks for so little; the place of the workspace is then too small
    for the next workspace, and the heap grew by three or four of them (docs/performance.md). Where
    it has grown all the same, hands back what is free, and asks for huge pages. Call this after
    each step, in the thread that calls the step; it does nothing but after `keep_freed_memory`.
    """
    global _heap_end
    if not _keeps:
        return
    libc = _libc()
    for num_bytes in _FRAGMENT_BYTES:
        blocks = [libc.malloc(num_bytes) for _ in range(2 * _CACHED_BY_THREAD)]
        for block in reversed(blocks):  # Those that came from the thread's cache find it full.
            libc.free(block)
    end = libc.sbrk(0)
    if end > _heap_end:
        libc.malloc_trim(_LARGEST)  # Of the heap's end nothing goes back: it would only return.
        # Pages of 2 MB in place of 4 kB, where there are any: fewer faults and look-ups.
        first = _heap_end & -os.sysconf("SC_PAGE_SIZE")
        libc.madvise(first, end - first, _MADV_HUGEPAGE)
        _heap_end = end


@functools.cache
def _libc() -> ctypes.CDLL:
    """The C library, told of the types of what is called here."""
    libc, pointer, size = ctypes.CDLL(None), ctypes.c_void_p, ctypes.c_size_t
    libc.malloc.argtypes, libc.malloc.restype, libc.free.argtypes = [size], pointer, [pointer]
    libc.sbrk.argtypes, libc.sbrk.restype = [ctypes.c_ssize_t], pointer
    libc.madvise.argtypes, libc.malloc_trim.argtypes = [pointer, size, ctypes.c_int], [size]
    libc.open_memstream.restype = pointer
    libc.malloc_info.argtypes, libc.fclose.argtypes = [ctypes.c_int, pointer], [pointer]
    return libc


def fill_holes() -> None:
    """Takes up, for good, the small free blocks that the compiler left between those it keeps.

    The kernels' workspaces, which are allocated at every step, would be searched for in long lists
    of such blocks, under the one lock that all threads wait for; that took a quarter of a step
    (docs/performance.md). Does nothing but after `keep_freed_memory`.
    """
    if not _keeps:
        return
    libc = _libc()
    for _ in range(2):  # Once more for what is left of blocks larger than the smallest of a list.
        for smallest_bytes, num in reversed(_holes(libc)):
            if _SMALLEST_HOLE_BYTES <= smallest_bytes <= _LARGEST_HOLE_BYTES:
                for _ in range(num):
                    libc.malloc(smallest_bytes - 2 * ctypes.sizeof(ctypes.c_size_t))


def _holes(libc: ctypes.CDLL) -> list[tuple[int, int]]:
    """Returns malloc_info(3)'s lists of free blocks: bytes of the smallest, and their number."""
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
