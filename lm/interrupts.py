"""Ctrl-C that would be lost: Python drops what is raised inside a callback."""

import _thread
import sys
import time

_AGAIN_SECONDS = 0.05


def keep() -> None:
    """From here on, a KeyboardInterrupt that a callback has swallowed comes once more.

    JAX has one that is called at each garbage collection, so that a program that makes many objects
    would otherwise now and then go on after ctrl-C.
    """
    others = sys.unraisablehook

    def hook(unraisable):
        if unraisable.exc_type is KeyboardInterrupt:
            # Not by `threading`, whose lock the code that was interrupted may hold.
            _thread.start_new_thread(_interrupt_later, ())
        else:
            others(unraisable)

    sys.unraisablehook = hook


def _interrupt_later() -> None:
    time.sleep(_AGAIN_SECONDS)
    _thread.interrupt_main()
