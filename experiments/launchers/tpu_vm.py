"""Runs on TPU VMs of Google Cloud, made for them and deleted after them, by `gcloud`."""

import concurrent.futures
import dataclasses
import pathlib
import queue
import re
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments import children
from experiments.launchers import gcloud, remote
from experiments.launchers.gcloud import ABSENT, READY, WAITING
from experiments.sweep import Run
from lm.errors import UserError
from lm.results.state import state_of
from lm.watched import STOPPED

_INSTALL = "curl -sSL https://sdk.cloud.google.com | bash"
_SCRIPT = pathlib.Path(__file__).parent / "tpu_vm_worker.sh"
_PROVISIONING = {
    "on_demand": (),
    "spot": ("--spot",),
    "preemptible": ("--preemptible",),
    "reserved": ("--reserved",),
}
_FETCHED = ("config.json", "metrics.jsonl", "provenance.json")
_LOST_LOOKS = 5  # Times that a log is asked for again, after its connection broke.
_LOOK_SECONDS = 0.2
_KILLED = 128  # Exit codes from here on are of a process that a signal ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Which VMs, and what to do where they fail.

    name: of the VM; NAME-0, NAME-1, ... of several. One that is there already is used, and is
      deleted only if a launcher made it.
    zone, project: "" for those that gcloud is set to.
    accelerator_type, runtime_version: as gcloud lists them, "v6e-8" and "v2-alpha-tpuv6e".
    provisioning: on_demand, spot, preemptible or reserved.
    queued: whether to ask by a queued resource, which waits for its turn.
    num_vms: VMs at a time; the runs of a sweep go one after the other on each.
    create_args, ssh_args: more options of `tpu-vm create`, and of `tpu-vm ssh` and `scp`.
    python: the version on the VM.
    mount: shell command that gives a worker what all share; run at every start of a VM.
    remote_folder: what --workdir is on the VM, where it is another path.
    env_names: environment variables that a run is to have, secrets among them.
    keep: whether VMs stay at the end.
    max_restarts: of one run, after a preemption or a worker that died.
    create_attempts, retry_seconds: how often to try to get a VM, and how long after a failure.
    poll_seconds: between looks at a VM that is to come.
    """

    name: str
    zone: str
    project: str
    accelerator_type: str
    runtime_version: str
    provisioning: str
    queued: bool
    num_vms: int
    create_args: tuple[str, ...]
    ssh_args: tuple[str, ...]
    python: str
    mount: str
    remote_folder: str
    env_names: tuple[str, ...]
    keep: bool
    max_restarts: int
    create_attempts: int
    retry_seconds: float
    poll_seconds: float

    def names(self, num_runs: int) -> list[str]:
        """Of as many VMs as have something to do."""
        if self.num_vms == 1:
            return [self.name]
        return [f"{self.name}-{i}" for i in range(min(self.num_vms, num_runs))]

    def commands(self, name: str) -> gcloud.Commands:
        """Of one VM."""
        return gcloud.Commands(name, self.zone, self.project, self.queued, self.ssh_args)


def run(runs: Sequence[Run], folder: pathlib.Path, **settings: Any) -> int:
    """Trains what is not done, and follows it to its end.

    SIGINT or SIGTERM has the runs save and end, and deletes the VMs.

    Returns:
      0: all are done. 1: some failed, or a VM could not be deleted. 75: some have still to go on.

    Raises:
      UserError: gcloud is missing or cannot be used, the tree has changes that are in no commit, or
        the settings do not go together.
    """
    asked = _checked(settings)
    waiting = [one for one in runs if state_of(one.workdir).kind != "done"]
    moved = {one.name: remote.moved(one, folder, asked.remote_folder) for one in waiting}
    remote.check_program("tpu_vm", "gcloud", _INSTALL)
    secrets = remote.secrets(asked.env_names)
    commit = remote.commit()
    if not waiting:
        return 0
    logs = folder / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    bundle = _bundle(folder, commit)
    bundle.parent.mkdir(exist_ok=True)
    todo: queue.SimpleQueue[Run] = queue.SimpleQueue()
    for one in waiting:
        todo.put(one)
    with children.stop_on_signals() as stop:
        vms = [
            _Vm(name, asked, logs, bundle, commit, secrets, stop)
            for name in asked.names(len(waiting))
        ]
        vms[0].check(remote.bundle_command(bundle))
        with concurrent.futures.ThreadPoolExecutor(len(vms)) as pool:
            served = [pool.submit(vm.serve, todo, moved) for vm in vms]
            while concurrent.futures.wait(served, timeout=_LOOK_SECONDS).not_done:
                pass
    kinds = [kind for one in served for kind in one.result()]
    if "failed" in kinds:
        return 1
    return 0 if len(kinds) == len(waiting) and set(kinds) == {"done"} else STOPPED


def plan(runs: Sequence[Run], folder: pathlib.Path, **settings: Any) -> str:
    """Every command, in the order of a run in which nothing fails."""
    asked = _checked(settings)
    waiting = [one for one in runs if state_of(one.workdir).kind != "done"]
    commit = remote.commit()
    bundle = _bundle(folder, commit)
    names = asked.names(len(waiting))
    lines = [shlex.join(remote.bundle_command(bundle))]
    for i, name in enumerate(names):
        commands = asked.commands(name)
        lines += ["", *([shlex.join(commands.describe_queued())] if asked.queued else [])]
        lines += [
            shlex.join(commands.describe()),
            shlex.join(_create(commands, asked)),
            "# From here on the same for each further worker, all at once, by --worker=1, ...",
            shlex.join(commands.copy(0, bundle, _SCRIPT)),
            shlex.join(commands.tell(0, *_install(asked, commit))),
        ]
        if asked.env_names:
            lines.append(f"# `start` reads from stdin: {', '.join(asked.env_names)}")
        for one in waiting[i :: len(names)]:
            there = remote.moved(one, folder, asked.remote_folder)
            lines.append(shlex.join(commands.tell(0, *_start(there, commit))))
            lines.append(shlex.join(commands.tell(0, *_follow(there, 1))))
            if asked.remote_folder:
                lines.append(shlex.join(_fetch(commands, there, one)))
        if not asked.keep:
            lines.append(shlex.join(commands.delete()))
    return "\n".join(lines)


def judge(codes: Sequence[int | None], state: str) -> str:
    """What to do after the processes of a run have ended: "done", "failed" or "again".

    Args:
      codes: of each worker; None where it could not be reached.
      state: of the VM.
    """
    if set(codes) == {0}:
        return "done"
    if state != READY or any(code is None or code > _KILLED for code in codes):
        return "again"  # Of the others, some may say that they never found the one that died.
    return "again" if set(codes) <= {0, STOPPED} else "failed"


class _NoVmError(Exception):
    """There is no VM to be had, and what was said of it."""


class _Vm:
    """One VM, and the runs that it is given."""

    def __init__(self, name, asked, logs, bundle, commit, secrets, stop):
        self._name, self._asked, self._logs, self._bundle = name, asked, logs, bundle
        self._commit, self._secrets, self._stop = commit, secrets, stop
        self._commands = asked.commands(name)
        self._runner = gcloud.Runner(logs / f"{name}.log")
        self._num_workers, self._is_ours, self._is_installed = 0, False, False

    def check(self, bundle_command: list[str]) -> None:
        """Whether gcloud can be used at all, and makes the bundle that is copied."""
        try:
            gcloud.described(self._commands, self._runner)
        except gcloud.GcloudError as error:
            raise UserError(f"gcloud cannot describe {self._name}: {error}") from None
        done = self._runner.run(bundle_command)
        if done.returncode:
            raise UserError(f"{shlex.join(bundle_command)}: {gcloud.last_line(done.stderr)}")

    def serve(self, todo: "queue.SimpleQueue[Run]", moved: dict[str, Run]) -> list[str]:
        """Trains runs until none is left; the kind of end of each: done, failed or stopped."""
        kinds = []
        try:
            while not self._stop.is_told:
                try:
                    one = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    kinds.append(self._train(one, moved[one.name]))
                except _NoVmError:
                    todo.put(one)  # For another VM, if there is one.
                    raise
                self._say(f"{kinds[-1]} {one.name}")
        except _NoVmError as error:
            self._say(f"no VM: {error}")
        finally:
            if self._is_ours and not self._asked.keep and not self._has_deleted():
                kinds.append("failed")
        return kinds

    def _train(self, one: Run, there: Run) -> str:
        for attempt in range(1 + self._asked.max_restarts):
            if self._stop.is_told:
                return "stopped"
            if attempt:
                self._say(f"restart {one.name}, {attempt} of {self._asked.max_restarts}")
            self._make_ready()
            if attempt:
                self._stop_processes(one)
            codes = self._start_and_follow(one, there)
            state = self._state()
            kind = judge(codes, state)
            self._say(f"{one.name} ended with {', '.join(map(str, codes))}, and the VM is {state}")
            if kind == "again" and self._stop.is_told:
                kind = "stopped"
            if kind != "again":
                if self._asked.remote_folder:
                    one.workdir.mkdir(parents=True, exist_ok=True)
                    self._runner.run(_fetch(self._commands, there, one))
                return kind
        return "failed"

    def _make_ready(self) -> None:
        """Has a VM with the tree on it.

        Raises:
          _NoVmError: there is none to be had, or a signal came.
        """
        for attempt in range(self._asked.create_attempts):
            self._pause(self._asked.retry_seconds if attempt else 0.0)
            state = self._state()
            if state not in (READY, WAITING, ABSENT):
                if not self._is_ours:
                    raise _NoVmError(f"it is {state}, and no launcher made it: mend it")
                self._has_deleted()
            if state not in (READY, WAITING):
                self._is_installed, self._is_ours = False, True
                self._say(f"create, attempt {attempt + 1}")
                done = self._runner.run(_create(self._commands, self._asked))
                if done.returncode:
                    self._say(f"not created: {gcloud.last_line(done.stderr)}")
                    continue
            while (state := self._state()) == WAITING:
                self._pause(self._asked.poll_seconds)
            self._pause(0.0)
            if state == READY and (self._is_installed or self._has_installed()):
                return
        raise _NoVmError(f"none after {self._asked.create_attempts} attempts")

    def _has_installed(self) -> bool:
        def install(worker):
            for command in (
                self._commands.copy(worker, self._bundle, _SCRIPT),
                self._commands.tell(worker, *_install(self._asked, self._commit)),
            ):
                done = self._runner.run(command)
                if done.returncode:
                    error = gcloud.last_line(done.stderr)
                    self._say(f"not installed on worker {worker}: {error}")
                    return False
            return True

        self._is_installed = all(self._on_each(install))
        return self._is_installed

    def _on_each(self, act: Callable[[int], Any]) -> list[Any]:
        """What `act` gives for each worker, all at once."""
        with concurrent.futures.ThreadPoolExecutor(self._num_workers) as pool:
            return list(pool.map(act, range(self._num_workers)))

    def _start_and_follow(self, one: Run, there: Run) -> list[int | None]:
        started = self._on_each(lambda worker: self._start(worker, there))
        if set(started) != {0}:
            return started
        self._say(f"start {one.name} on {self._num_workers} workers")
        with concurrent.futures.ThreadPoolExecutor(self._num_workers) as pool:
            workers = range(self._num_workers)
            followed = [pool.submit(self._follow, worker, one) for worker in workers]
            while concurrent.futures.wait(followed, timeout=_LOOK_SECONDS).not_done:
                if self._stop.is_told:
                    self._say(f"stop {one.name}, which saves")
                    self._stop_processes(one)
                    break
            return [one.result() for one in followed]

    def _start(self, worker: int, there: Run) -> int | None:
        exports = [f"export {k}={shlex.quote(v)}\n" for k, v in self._secrets.items()]
        command = self._commands.tell(worker, *_start(there, self._commit))
        done = self._runner.run(command, stdin="".join(exports))
        if done.returncode:
            self._say(f"not started on worker {worker}: {gcloud.last_line(done.stderr)}")
        return done.returncode if done.returncode in (0, 2) else None

    def _follow(self, worker: int, one: Run) -> int | None:
        """The exit code of a worker's process, whose log is copied; None where it was lost."""
        path = self._logs / (f"{one.name}.{worker}.log" if worker else f"{one.name}.log")
        num_lines, code = 0, None

        def copy(line):
            nonlocal num_lines, code
            if match := re.fullmatch(r"exit code (\d+)", line):
                code = int(match[1])
                return
            num_lines += 1
            file.write(line + "\n")
            file.flush()
            if not worker:
                print(f"{one.name} | {line}", flush=True)

        with path.open("a") as file:
            for look in range(_LOST_LOOKS):
                if look:
                    time.sleep(self._asked.poll_seconds)
                code = None
                self._runner.run(
                    self._commands.tell(worker, *_follow(one, num_lines + 1)), on_line=copy
                )
                if code is not None or self._state() != READY:
                    break
        return code

    def _stop_processes(self, one: Run) -> None:
        words = ("sh", _SCRIPT.name, "stop", one.name)
        self._on_each(lambda worker: self._runner.run(self._commands.tell(worker, *words)))

    def _state(self) -> str:
        try:
            state, node = gcloud.described(self._commands, self._runner)
        except gcloud.GcloudError as error:
            self._say(f"not described: {error}")
            return WAITING
        if node:
            self._is_ours = gcloud.LABEL in node["labels"].items()
            self._num_workers = gcloud.num_workers(node) if state == READY else 0
        return state

    def _has_deleted(self) -> bool:
        for _ in range(_LOST_LOOKS):
            done = self._runner.run(self._commands.delete())
            if done.returncode == 0 or "NOT_FOUND" in done.stderr:
                self._say("deleted")
                return True
            self._say(f"not deleted: {gcloud.last_line(done.stderr)}")
            time.sleep(self._asked.poll_seconds)
        self._say(f"it may still be there, and cost money: {shlex.join(self._commands.delete())}")
        return False

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._stop.is_told and time.monotonic() < end:
            time.sleep(_LOOK_SECONDS)
        if self._stop.is_told:
            raise _NoVmError("told to stop")

    def _say(self, text: str) -> None:
        print(f"{self._name}: {text}", flush=True)


def _checked(settings: dict[str, Any]) -> Settings:
    asked = Settings(**settings)
    if asked.provisioning not in _PROVISIONING:
        raise UserError(
            f"--launcher.provisioning={asked.provisioning} is unknown; choose "
            f"{', '.join(_PROVISIONING)}"
        )
    if asked.queued and asked.provisioning == "preemptible":
        raise UserError("--launcher.provisioning=preemptible cannot be queued; choose spot")
    for name in ("accelerator_type", "runtime_version"):
        if not getattr(asked, name):
            raise UserError(
                f"--launcher.{name} must be set; docs/launchers.md says how to list them"
            )
    return asked


def _bundle(folder: pathlib.Path, commit: str) -> pathlib.Path:
    return folder / "tpu_vm" / f"lm-{commit}.bundle"


def _create(commands: gcloud.Commands, asked: Settings) -> list[str]:
    more = (*_PROVISIONING[asked.provisioning], *asked.create_args)
    return commands.create(asked.accelerator_type, asked.runtime_version, more)


def _install(asked: Settings, commit: str) -> tuple[str, ...]:
    return "sh", _SCRIPT.name, "install", commit, asked.python, asked.mount


def _start(there: Run, commit: str) -> tuple[str, ...]:
    arguments = ("--coordinator=auto", *there.arguments)
    return "sh", _SCRIPT.name, "start", commit, there.name, str(there.workdir), *arguments


def _follow(one: Run, line: int) -> tuple[str, ...]:
    return "sh", _SCRIPT.name, "follow", one.name, str(line)


def _fetch(commands: gcloud.Commands, there: Run, one: Run) -> list[str]:
    return commands.fetch([there.workdir / name for name in _FETCHED], one.workdir)
