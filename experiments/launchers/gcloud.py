"""The `gcloud` commands that make, describe, use and delete one TPU VM."""

import contextlib
import dataclasses
import getpass
import json
import pathlib
import re
import shlex
import subprocess
import threading
from collections.abc import Callable
from typing import Any

from lm.run import lock
from lm.system.cache import cache_folder

ABSENT, READY, WAITING = "ABSENT", "READY", "WAITING"
_LOST_QUEUE = ("FAILED", "SUSPENDING", "SUSPENDED", "DELETING")
_STARTING = ("CREATING", "STARTING", "RESTARTING", "REIMAGING", "REPAIRING", "DELETING")


@dataclasses.dataclass(frozen=True)
class Commands:
    """The commands as lists of words, each complete but for the program that runs them."""

    name: str  # Of the VM, and of its queued resource if `is_queued`.
    zone: str  # Of zone and project, "" is the one that gcloud is set to.
    project: str
    is_queued: bool
    ssh_args: tuple[str, ...]  # More options of ssh and scp, such as ("--internal-ip",).

    def create(
        self, accelerator_type: str, runtime_version: str, more: tuple[str, ...]
    ) -> list[str]:
        """Makes the VM, or asks for it."""
        version = "--runtime-version" if self.is_queued else "--version"
        return self._command(
            "queued-resources" if self.is_queued else "tpu-vm",
            "create",
            self.name,
            *([f"--node-id={self.name}"] if self.is_queued else []),
            f"--accelerator-type={accelerator_type}",
            f"{version}={runtime_version}",
            f"--labels={'='.join(label())}",
            *more,
        )

    def describe(self, kind: str = "tpu-vm") -> list[str]:
        """Prints the VM, or its "queued-resources", as JSON."""
        return self._command(kind, "describe", self.name, "--format=json")

    def delete(self) -> list[str]:
        """Deletes the VM, and its queued resource."""
        if self.is_queued:
            return self._command("queued-resources", "delete", self.name, "--force")
        return self._command("tpu-vm", "delete", self.name)

    def copy(self, worker: int, *paths: pathlib.Path) -> list[str]:
        """Copies files into the home of one worker."""
        # gcloud refuses `--worker=all` unless the user's key is in an ssh-agent.
        target = (f"{self.name}:", f"--worker={worker}")
        return self._command("tpu-vm", "scp", *map(str, paths), *target, *self.ssh_args)

    def fetch(self, paths: list[pathlib.Path], folder: pathlib.Path) -> list[str]:
        """Copies files from the first worker."""
        sources = [f"{self.name}:{path}" for path in paths]
        return self._command("tpu-vm", "scp", *sources, str(folder), "--worker=0", *self.ssh_args)

    def tell(self, worker: int, *words: str) -> list[str]:
        """Runs a command on one worker."""
        command = f"--command={shlex.join(words)}"
        return self._command(
            "tpu-vm", "ssh", self.name, f"--worker={worker}", command, *self.ssh_args
        )

    def _command(self, *words: str) -> list[str]:
        where = {"--zone": self.zone, "--project": self.project}
        flags = [f"{flag}={value}" for flag, value in where.items() if value]
        return ["gcloud", "compute", "tpus", *words, *flags, "--quiet"]


def label() -> tuple[str, str]:
    """Key and value that a VM has which this user's launchers made, and so may delete."""
    return "launched-by", f"lm-{re.sub('[^a-z0-9_-]', '-', getpass.getuser().lower())}"


def held(name: str) -> contextlib.AbstractContextManager[None]:
    """Keeps other launchers of this machine from a VM, whose runs they would stop; see `lock`."""
    vm = f"--launcher.name={name}: another launcher's VM"
    return lock.held(cache_folder("tpu_vm"), vm, file_name=f"{name}.lock")


class Runner:
    """Runs commands, and logs each with what it wrote, but not its stdin, which has secrets.

    A signal that ends this process in order does not reach the commands: what was begun is ended.
    """

    def __init__(self, log: pathlib.Path):
        self._log, self._lock = log, threading.Lock()

    def run(
        self, command: list[str], *, stdin: str = "", on_line: Callable[[str], None] | None = None
    ) -> subprocess.CompletedProcess:
        """Runs a command to its end; `on_line`, if given, gets each line of stdout as it comes."""
        self._note(f"$ {shlex.join(command)}")
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # Out of reach of the terminal's ctrl-C.
        )
        if on_line is None:
            stdout, stderr = process.communicate(stdin)
        else:
            errors: list[str] = []  # Read by a thread: gcloud would wait on a full pipe of stderr.
            reader = threading.Thread(target=lambda: errors.extend(process.stderr))
            reader.start()
            process.stdin.close()
            for line in process.stdout:
                on_line(line.rstrip("\n"))
            process.wait()
            reader.join()
            stdout, stderr = "", "".join(errors)
        self._note(f"{stdout}{stderr}".rstrip() + f"\n= exit code {process.returncode}")
        return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)

    def _note(self, text: str) -> None:
        with self._lock, self._log.open("a") as file:
            file.write(text.lstrip("\n") + "\n")


class GcloudError(Exception):
    """A command of gcloud failed; its message is one line of what it said."""


def described(commands: Commands, runner: Runner) -> tuple[str, dict[str, Any]]:
    """The state of a VM, and what gcloud says of it, "labels" included.

    The state is ABSENT, WAITING, READY, or another word for one that will not be of use again, such
    as gcloud's own PREEMPTED.

    Raises:
      GcloudError: gcloud cannot say.
    """
    if commands.is_queued:
        request = _described(commands.describe("queued-resources"), runner)
        if request is None:
            return ABSENT, {}
        state = request["state"]["state"]
        if state != "ACTIVE":  # There may be no VM to describe.
            node = request["tpu"]["nodeSpec"][0]["node"]
            return (state if state in _LOST_QUEUE else WAITING), {"labels": {}} | node
    node = _described(commands.describe(), runner)
    if node is None:  # A queued resource that is there without its VM has to be deleted first.
        return ("LOST" if commands.is_queued else ABSENT), {}
    node = {"labels": {}} | node
    return (WAITING if node["state"] in _STARTING else node["state"]), node


def num_workers(node: dict[str, Any]) -> int:
    """Counts the workers of a described VM: each has an endpoint in each of its networks."""
    num_networks = len(node["networkConfigs"]) if "networkConfigs" in node else 1
    return len(node["networkEndpoints"]) // max(1, num_networks)


def last_line(text: str) -> str:
    """Returns the last line that says something."""
    return next((x.strip() for x in reversed(text.splitlines()) if x.strip()), "it said nothing")


def _described(command: list[str], runner: Runner) -> dict[str, Any] | None:
    done = runner.run(command)
    if done.returncode == 0:
        return json.loads(done.stdout)
    if "NOT_FOUND" in done.stderr:
        return None
    raise GcloudError(last_line(done.stderr))
