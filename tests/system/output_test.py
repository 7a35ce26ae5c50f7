"""Streams that end while a program prints: programs of a few lines, without JAX."""

import os
import pathlib
import pty
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
GUARDED = "import os, sys; from lm.system import output; output.guard()\n"
OUTLIVING = GUARDED + "output.outlive_readers()\n"
WORKS = """
for i in range(100):
    print(i, "x" * 10_000, flush=True)
    print(i, "x" * 10_000, file=sys.stderr)
with open(sys.argv[1], "w") as file:
    file.write("done")
"""


def run(program, path, redirected="", **settings):
    command = f'exec "$@" {redirected}'
    return subprocess.run(
        ["bash", "-c", command, "bash", sys.executable, "-c", program, path],
        cwd=ROOT,
        text=True,
        **settings,
    )


@pytest.mark.parametrize(
    "redirected",
    ["> >(head -1 > /dev/null)", ">&- 2>&-", "2> >(head -1 >&2)", "<&- >&-", "2>/dev/full"],
)
def test_a_program_goes_on_where_nobody_reads_it(tmp_path, redirected):
    done = run(OUTLIVING + WORKS, tmp_path / "file", redirected, capture_output=True)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == "done"  # And nothing that was printed.


def test_a_program_goes_on_where_its_terminal_was_closed(tmp_path):
    ours, theirs = pty.openpty()
    program = OUTLIVING + "input_closed = sys.stdin.read()\n" + WORKS
    process = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "file"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.close(ours)
    process.communicate()

    assert process.returncode == 0
    assert (tmp_path / "file").read_text() == "done"


def test_one_that_is_there_to_be_read_is_told_that_nobody_does(tmp_path):
    program = GUARDED + (
        "try:\n    for _ in range(10_000): print('x' * 100)\n"
        "except BrokenPipeError: sys.exit(3 if output.has_lost_reader() else 4)\n"
    )

    done = run(program, tmp_path, "> >(head -1 > /dev/null)", capture_output=True)

    assert (done.returncode, done.stderr) == (3, "")


@pytest.mark.parametrize("start", [GUARDED, OUTLIVING], ids=["read", "outliving"])
def test_a_full_disk_is_named_as_that_of_the_stream(tmp_path, start):
    program = start + (
        "try:\n    print('x' * 100, flush=True)\n"
        "except OSError as error: print(error.filename, error.errno, file=sys.stderr)\n"
    )

    done = run(program, tmp_path, "> /dev/full", capture_output=True)

    assert (done.returncode, done.stderr) == (0, "standard output 28\n")


def test_what_the_encoding_lacks_is_printed_as_its_escape(tmp_path):
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}

    done = run(GUARDED + "print('t é \\udcff')", tmp_path, capture_output=True, env=environment)

    assert (done.returncode, done.stdout) == (0, "t \\xe9 \\udcff\n")
