import contextlib
import errno
import itertools
import multiprocessing.synchronize
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lm.corpus.tokenization import tokenizing
from lm.system import faults
from lm.tokenizers import tokenizers

ROOT = pathlib.Path(__file__).parent.parent.parent


PREPARES = """
import os, pathlib, sys, time
from lm.corpus.sources import Document
from lm.corpus.tokenization import tokenizing

def documents():
    while True:
        yield Document(name="a", text="text " * 60_000)

if __name__ == "__main__":
    with tokenizing(pathlib.Path(sys.argv[1]), 2) as tokenize:
        for count, _ in enumerate(tokenize(documents())):
            if count == 3:
                print("at work", flush=True)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_workers_die_with_their_parent(tmp_path, signum):
    tokenizers.ByteTokenizer().save(tmp_path)
    # A group of its own, by which its processes are found, whoever adopts them.
    parent = subprocess.Popen(
        [sys.executable, "-c", PREPARES, tmp_path],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert parent.stdout.readline() == b"at work\n"
    assert len(_group(parent.pid)) >= 3

    parent.send_signal(signum)
    parent.wait()

    for _ in range(100):
        if not _group(parent.pid):
            return
        time.sleep(0.1)
    left = _group(parent.pid)
    os.killpg(parent.pid, signal.SIGKILL)
    pytest.fail(f"{left} outlive their parent")


def _group(leader):
    """The processes of a group that live."""
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = stat.read_text().rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                found.append(stat.parent.name)
    return found


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT], ids=errno.errorcode.get)
def test_shared_memory_that_is_full_or_absent_is_named_whatever_asks_for_it(
    tmp_path, monkeypatch, number
):
    tokenizers.ByteTokenizer().save(tmp_path)
    make = multiprocessing.synchronize.SemLock.__init__
    left = 0

    def fails_at_last(*args, **settings):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(number, os.strerror(number))
        make(*args, **settings)

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, "__init__", fails_at_last)
    lines = []
    for num_made in itertools.count():
        left = num_made
        try:
            with tokenizing(tmp_path, 2):
                break
        except OSError as error:
            lines.append(faults.one_line(error))

    assert len(lines) > 3  # Those of a barrier, and then those of the pool.
    assert {line.partition(":")[0] for line in lines} == {"/dev/shm"}
    assert all(os.strerror(number) in line and ";" in line for line in lines)
