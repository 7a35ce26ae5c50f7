"""Has the C library take memory in huge pages."""

import os
import sys

ENVIRONMENT = "GLIBC_TUNABLES"  # What glibc reads once, when a process starts.
HUGE_PAGES = "glibc.malloc.hugetlb=1"  # Known from 2.35 on; before, nothing happens.


def use_huge_pages() -> None:
    """Starts this program anew, with memory in pages of 2 MB where the kernel has them.

    XLA's CPU client gives its workspace back after every step. In pages of 4 kB, clearing them for
    the next one took a fifth of a step; and memory that is kept instead breaks up where shapes vary
    (docs/performance.md). Returns where the setting is made already, and on other systems.
    """
    settings = os.environ.get(ENVIRONMENT, "")
    if sys.platform != "linux" or "glibc.malloc.hugetlb" in settings:
        return
    os.environ[ENVIRONMENT] = f"{settings}:{HUGE_PAGES}" if settings else HUGE_PAGES
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
