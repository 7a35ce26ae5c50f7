"""What launchers need to run a command on other machines: programs, secrets, the tree, folders."""

import dataclasses
import os
import pathlib
import re
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


def check_program(launcher: str, name: str, install: str) -> None:
    """Raises UserError, with the command that installs it, where a program is not on PATH."""
    if shutil.which(name) is None:
        raise UserError(f"--launcher={launcher} needs `{name}`, which is not here: {install}")


def check_at_least(low: float, asked: Any, *names: str) -> None:
    """Raises UserError where one of these settings is smaller than `low`."""
    for name in names:
        if getattr(asked, name) < low:
            raise UserError(f"--launcher.{name}={getattr(asked, name)} must be at least {low}")


def secrets(env_names: Sequence[str]) -> dict[str, str]:
    """The values of environment variables that a run is to have, by name; never to be printed.

    Raises:
      UserError: one is not set here, or its name is none.
    """
    for name in env_names:
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise UserError(
                f"--launcher.env_names={name!r} is no name of a variable; give the name"
            )
        if name not in os.environ:
            raise UserError(
                f"--launcher.env_names={name}: it is not set; export it, or leave it out"
            )
    return {name: os.environ[name] for name in env_names}


def commit() -> str:
    """The commit of this tree, which holds all that is in it.

    Raises:
      UserError: it does not, or there is none.
    """
    changed = _git("status", "--porcelain").splitlines()  # Untracked files too: runs may need them.
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{changed[0][3:]}{more} differ from HEAD, which is what is copied; commit them, or "
            "put them into .gitignore"
        )
    return _git("rev-parse", "HEAD")


def _git(*args: str) -> str:
    done = subprocess.run(["git", "-C", ROOT, *args], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{ROOT} is no checkout of git: {done.stderr.strip()}; clone it")
    return done.stdout.rstrip()


def moved(run: PlannedRun, folder: pathlib.Path, remote_folder: str) -> PlannedRun:
    """Gives a run the workdir that it has on other machines.

    There it lies in `remote_folder` as it does in `folder` here; "" is for the same path.

    Raises:
      UserError: the path is not absolute.
    """
    workdir = run.workdir  # As it is here, where all machines share it.
    if remote_folder:
        workdir = pathlib.Path(remote_folder) / workdir.relative_to(folder)
    if not workdir.is_absolute():
        raise UserError(
            f"--workdir={workdir} must be an absolute path that all machines share; or name "
            "that one in --launcher.remote_folder"
        )
    # The name of the run stays: it is a hash of its config, which says no place.
    arguments = [f"--workdir={workdir}" if a.startswith("--workdir=") else a for a in run.arguments]
    return dataclasses.replace(run, workdir=workdir, arguments=tuple(arguments))


def bundle_command(path: pathlib.Path) -> list[str]:
    """Writes the commit with its history, so that a copy of the tree knows what it is."""
    return ["git", "-C", str(ROOT), "bundle", "create", "-q", str(path.absolute()), "HEAD"]
