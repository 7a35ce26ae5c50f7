import os
import subprocess
import sys

import pytest

from lm.system import allocator

_SETTINGS = """
import os, sys
from lm.system import allocator

allocator.use_huge_pages()
print(os.getpid(), os.environ[allocator.ENVIRONMENT], sys.argv[1:], sys.flags.utf8_mode)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_a_program_starts_anew_once_as_the_same_process(given, expected):
    command = [sys.executable, "-X", "utf8", "-c", _SETTINGS, "a b", "--c"]
    environment = os.environ | {allocator.ENVIRONMENT: given}

    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    output, _ = process.communicate()

    assert output.split("\n")[0] == f"{process.pid} {expected} ['a b', '--c'] 1"
