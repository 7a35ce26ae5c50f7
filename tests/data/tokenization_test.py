import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lm.data import tokenizers

ROOT = pathlib.Path(__file__).parent.parent.parent


PREPARES = """
import os, pathlib, sys, time
from lm.data.sources import Document
from lm.data.tokenization import tokenizing

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
