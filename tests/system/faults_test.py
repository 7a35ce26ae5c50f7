import errno
import os
import pathlib
import re

import pytest

from lm.system import faults


class OfALibrary(Exception):
    """As those of Rust's and C++'s libraries, which are no OSError."""


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b"), "a/b: the disk is full: .*free"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: .*free some space"),
        (OfALibrary("I/O error: No space left on device (os error 28)"), "the disk is full: I/O e"),
        (RuntimeError("Failed to finalize\nwriting; No space left on device"), "the disk is full"),
        (OSError(errno.EFBIG, "File too large", b"a\xff"), "a\udcff: File too large; .*ulimit -f"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; give"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: No such .*restore"),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "x"), "x: Not a .*; a file stands"),
        (OSError("no number\nat all"), "no number at all$"),
        (MemoryError(), "not enough memory .none is left.; "),
        (MemoryError("Unable to allocate 9 GiB"), "not enough memory .Unable to allocate 9 GiB.; "),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9"), "not enough memory .RESO"),
    ],
    ids=str,
)
def test_what_the_machine_causes_is_one_line_that_names_file_and_remedy(error, said):
    line = faults.one_line(error)

    assert re.match(said, line), line
    assert "\n" not in line


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a"),
        RuntimeError("x"),
        KeyError("experiment"),
        AssertionError(),
        ZeroDivisionError("division by zero"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "y"),
    ],
    ids=repr,
)
def test_a_bug_is_no_fault_of_the_machine(error):
    assert faults.one_line(error) is None


def test_what_is_asked_of_a_file_that_cannot_do_it_is_a_bug():
    with pytest.raises(OSError) as caught, pathlib.Path(os.devnull).open() as file:
        file.write("")

    assert faults.one_line(caught.value) is None


def test_an_error_that_names_no_file_gets_the_name_and_others_stay():
    with pytest.raises(OSError, match="No space") as caught, faults.naming("a/b"):
        raise OfALibrary("No space left on device")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "a/b")
    with pytest.raises(OSError) as caught, faults.naming("a/b"):
        raise PermissionError(errno.EACCES, "Permission denied", "c")
    assert caught.value.filename == "c"
    with pytest.raises(ValueError, match="own"), faults.naming("a/b"):
        raise ValueError("own")


@pytest.mark.parametrize(
    "size, text",
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (700_000, "700 KB"),
        (12_300_000, "12 MB"),
        (1.25e9, "1.25 GB"),
        (3.5e15, "3,500.00 TB"),
    ],
)
def test_sizes_have_units_in_which_they_are_not_zero(size, text):
    assert faults.in_bytes(size) == text
