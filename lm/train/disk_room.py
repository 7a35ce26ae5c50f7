"""Room for checkpoints: asked for before training and before each save."""

import errno
import pathlib
import shutil
from typing import Any

import jax

from lm.errors import UserError
from lm.run.workdir import existing_part
from lm.system import faults


def check(folder: pathlib.Path, num_bytes: int) -> None:
    """Raises UserError if the disk that `folder` will lie on has less room than this."""
    free = shutil.disk_usage(existing_part(folder)).free
    if free < num_bytes:
        raise UserError(
            f"--workdir={folder}: its disk has {faults.in_bytes(free)} free and the checkpoints "
            f"need {faults.in_bytes(num_bytes)}; free some, lower checkpoint.keep_last, or raise "
            "checkpoint.keep_every or make it 0"
        )


def check_to_save(folder: pathlib.Path, step: int, state: Any) -> None:
    """Raises UserError if the disk, which may have filled up since, has no room for this state."""
    needed = sum(x.nbytes for x in jax.tree.leaves(state))
    free = shutil.disk_usage(existing_part(folder)).free
    if free < needed:
        raise _full(folder, step, f"{faults.in_bytes(free)} free, {faults.in_bytes(needed)} needed")


def save_error(folder: pathlib.Path, step: int, error: Exception) -> Exception:
    """Returns what a save that failed raises: a UserError where the machine is to blame."""
    text = " ".join(str(error).split())[:200]
    number = faults.errno_of(error)
    # TensorStore's errors have no errno; this is its status for a full disk.
    if number == errno.ENOSPC or (number is None and "RESOURCE_EXHAUSTED" in text):
        return _full(folder, step, text)
    said = faults.one_line(error)
    if said is None:
        return error
    return UserError(
        f"checkpoint {step} could not be saved in {folder}, and those before it are intact: {said}"
    )


def _full(folder: pathlib.Path, step: int, reason: str) -> UserError:
    return UserError(
        f"the disk is full: checkpoint {step} could not be saved in {folder} ({reason}); those "
        "before it are intact. Free some space and run the same command again"
    )
