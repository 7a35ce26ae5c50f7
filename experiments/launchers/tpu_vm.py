"""Runs on TPU VMs of Google Cloud, made for them and deleted after them, by `gcloud`."""

import concurrent.futures
import contextlib
import pathlib
import queue
import re
import shlex
from collections.abc import Sequence
from typing import Any

from experiments.launchers import gcloud, remote
from experiments.launchers import tpu_machine as vm_lib
from experiments.launchers.tpu_machine import Settings
from experiments.sweeps import process_pool
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run.status import state_of
from lm.system.supervisor import STOPPED

_INSTALL = "curl -sSL https://sdk.cloud.google.com | bash"
_LOOK_SECONDS = 0.2


def run(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> int:
    """Trains what is not done, and follows it to its end.

    SIGINT or SIGTERM has the runs save and end, and deletes the VMs. Returns 0 where all are done,
    1 where some failed or a VM could not be deleted, 75 where some have still to go on.

    Raises:
      UserError: gcloud cannot be used, the tree has changes that are in no commit, or
        the settings do not go together.
    """
    asked = _checked(settings)
    waiting = [one for one in runs if state_of(one.workdir).kind != "done"]
    # All that can be refused comes before a VM is asked for, since that costs money.
    moved = {one.name: remote.moved(one, folder, asked.remote_folder) for one in waiting}
    secrets = remote.secrets(asked.env_names)
    commit = remote.commit()
    if not waiting:
        return 0
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    bundle = _bundle(folder, commit)
    bundle.parent.mkdir(exist_ok=True)
    todo: queue.SimpleQueue[PlannedRun] = queue.SimpleQueue()  # The next VM that is free takes one.
    for one in waiting:
        todo.put(one)
    names = asked.names(len(waiting))
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(gcloud.held(name))
        stop = stack.enter_context(process_pool.stop_on_signals())  # So that VMs are deleted.
        vms = [
            vm_lib.TpuMachine(name, asked, logs, bundle, commit, secrets, stop) for name in names
        ]
        vms[0].check(remote.bundle_command(bundle))
        with concurrent.futures.ThreadPoolExecutor(len(vms)) as pool:
            served = [pool.submit(vm.serve, todo, moved) for vm in vms]
            while concurrent.futures.wait(served, timeout=_LOOK_SECONDS).not_done:
                pass  # In between, this thread handles signals.
    kinds = [kind for one in served for kind in one.result()]
    if "failed" in kinds:
        return 1
    # Fewer ends than runs: for some there was no VM.
    return 0 if len(kinds) == len(waiting) and set(kinds) == {"done"} else STOPPED


def check(**settings: Any) -> None:
    """Raises UserError where gcloud or a variable is missing."""
    asked = _checked(settings)
    remote.check_program("tpu_vm", "gcloud", _INSTALL)
    remote.secrets(asked.env_names)


def plan(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> str:
    """Lists every command, in the order of a run in which nothing fails."""
    asked = _checked(settings)
    waiting = [one for one in runs if state_of(one.workdir).kind != "done"]
    if not waiting:
        return "nothing is left to do"
    commit = remote.commit()
    bundle = _bundle(folder, commit)
    names = asked.names(len(waiting))
    lines = [shlex.join(remote.bundle_command(bundle))]
    for i, name in enumerate(names):
        commands = asked.commands(name)
        lines.append("")
        if asked.queued:
            lines.append(shlex.join(commands.describe("queued-resources")))
        lines += [
            shlex.join(commands.describe()),
            shlex.join(vm_lib.create(commands, asked)),
            "# From here on the same for each further worker, all at once, by --worker=1, ...",
            shlex.join(commands.copy(0, bundle, vm_lib.SCRIPT)),
            shlex.join(commands.tell(0, *vm_lib.install(asked, commit))),
        ]
        if asked.env_names:
            lines.append(f"# `start` reads from stdin: {', '.join(asked.env_names)}")
        for one in waiting[i :: len(names)]:
            there = remote.moved(one, folder, asked.remote_folder)
            lines.append(shlex.join(commands.tell(0, *vm_lib.start(there, commit))))
            lines.append(shlex.join(commands.tell(0, *vm_lib.follow(there, 1))))
            if asked.remote_folder:
                lines.append(shlex.join(vm_lib.fetch(commands, there, one)))
        if not asked.keep:
            lines.append(shlex.join(commands.delete()))
    return "\n".join(lines)


def _checked(settings: dict[str, Any]) -> Settings:
    asked = Settings(**settings)
    if asked.provisioning not in vm_lib.PROVISIONING:
        raise UserError(
            f"--launcher.provisioning={asked.provisioning} is unknown; choose "
            f"{', '.join(vm_lib.PROVISIONING)}"
        )
    if asked.queued and asked.provisioning == "preemptible":
        raise UserError("--launcher.provisioning=preemptible cannot be queued; choose spot")
    remote.check_at_least(1, asked, "num_vms", "create_attempts")
    remote.check_at_least(0, asked, "max_restarts", "retry_seconds", "poll_seconds")
    if not re.fullmatch("[a-z][-a-z0-9]*", asked.name):
        raise UserError(f"--launcher.name={asked.name!r} must be small letters, digits and -")
    for name in ("accelerator_type", "runtime_version"):
        if not getattr(asked, name):
            raise UserError(
                f"--launcher.{name} must be set; docs/launchers.md says how to list them"
            )
    return asked


def _bundle(folder: pathlib.Path, commit: str) -> pathlib.Path:
    return folder / "tpu_vm" / f"lm-{commit}.bundle"
