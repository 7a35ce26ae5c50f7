import pathlib
import signal
import subprocess
import sys

import pytest

from lm.system import interrupts

ROOT = pathlib.Path(__file__).parent.parent.parent
INTERRUPTED_IN_A_CALLBACK = """
import gc, os, signal, time
from lm.system import interrupts

def callback(*_):
    gc.callbacks.clear()
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)

interrupts.keep()
gc.callbacks.append(callback)
gc.collect()
time.sleep(20)
"""


def test_an_interrupt_that_a_callback_swallows_comes_again():
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IN_A_CALLBACK], cwd=ROOT, capture_output=True, text=True
    )

    assert done.returncode == -signal.SIGINT
    assert "Exception ignored" not in done.stderr


TERMINATED = """
import gc, os, signal, sys, time
from lm.system import interrupts

def callback(*_):
    gc.callbacks.clear()
    os.kill(os.getpid(), signum)
    time.sleep(1)

signum = signal.Signals[sys.argv[1]]
if sys.argv[2] == "ignored":
    signal.signal(signum, signal.SIG_IGN)
interrupts.keep()
if sys.argv[2] == "in a callback":
    gc.callbacks.append(callback)
try:
    gc.collect() if gc.callbacks else os.kill(os.getpid(), signum)
    time.sleep(0 if sys.argv[2] == "ignored" else 20)
except interrupts.Terminated as error:
    print(error, error.signum == signum, flush=True)
    os.kill(os.getpid(), signum)
    time.sleep(20)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
@pytest.mark.parametrize("where", ["plainly", "in a callback"])
def test_a_signal_to_stop_is_raised_and_a_second_one_kills(signum, where):
    command = [sys.executable, "-c", TERMINATED, signum.name, where]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert done.stdout == f"{signum.name} True\n"
    assert (done.returncode, done.stderr) == (-signum, "")


def test_a_hangup_that_is_ignored_as_by_nohup_stays_so():
    command = [sys.executable, "-c", TERMINATED, "SIGHUP", "ignored"]

    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (0, "")


def test_signals_are_handled_inside_a_block_alone(monkeypatch):
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    heard = []

    with interrupts.handled(lambda signum, _: heard.append(signum)) as previous:
        for signum in before:
            signal.raise_signal(signum)
    assert heard == list(before)
    assert previous == before == {s: signal.getsignal(s) for s in before}

    monkeypatch.setattr(signal, "getsignal", lambda _: signal.SIG_IGN)
    with interrupts.handled(lambda *_: None) as previous:
        assert list(previous) == [signal.SIGINT]
