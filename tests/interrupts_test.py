import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).parent.parent
INTERRUPTED_IN_A_CALLBACK = """
import gc, os, signal, time
from lm import interrupts

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
