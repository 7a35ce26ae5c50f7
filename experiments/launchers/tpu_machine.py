"""One TPU VM: made, given runs one after the other, made again when it is lost, and deleted."""

import concurrent.futures
import dataclasses
import pathlib
import queue
import re
import shlex
import time
from collections.abc import Callable, Sequence
from typing import Any

from experiments.launchers import gcloud
from experiments.launchers.gcloud import ABSENT, READY, WAITING
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.process_pool import StopSignal
from lm.errors import UserError
from lm.system.supervisor import STOPPED

SCRIPT = pathlib.Path(__file__).parent / "tpu_vm_worker.sh"
PROVISIONING = {
    "on_demand": (),
    "spot": ("--spot",),
    "preemptible": ("--preemptible",),
    "reserved": ("--reserved",),
}
_FETCHED = ("config.json", "metrics.jsonl", "provenance.json")
_FETCH_ATTEMPTS = 3
_LOST_LOOKS = 5  # Times that a log is asked for again, after its connection broke.
_LOOK_SECONDS = 0.2
_KILLED = 128  # Exit codes from here on are of a process that a signal ended.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of VMs, and of what to do where they fail; configs/launchers.py has each."""

    name: str  # One that is there already is used, and is deleted only if a launcher made it.
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
    mount: str  # On each worker, at every start of a VM.
    remote_folder: str
    env_names: tuple[str, ...]
    keep: bool
    max_restarts: int
    create_attempts: int
    retry_seconds: float
    poll_seconds: float

    def names(self, num_runs: int) -> list[str]:
        """Names as many VMs as have something to do."""
        if self.num_vms == 1:
            return [self.name]
        return [f"{self.name}-{i}" for i in range(min(self.num_vms, num_runs))]

    def commands(self, name: str) -> gcloud.Commands:
        """Makes the commands of one VM."""
        return gcloud.Commands(name, self.zone, self.project, self.queued, self.ssh_args)


def create(commands: gcloud.Commands, asked: Settings) -> list[str]:
    """The command that makes a VM, or asks for it."""
    more = (*PROVISIONING[asked.provisioning], *asked.create_args)
    return commands.create(asked.accelerator_type, asked.runtime_version, more)


def install(asked: Settings, commit: str) -> tuple[str, ...]:
    """Gives the command of a worker that installs the tree and its packages."""
    return "sh", SCRIPT.name, "install", commit, asked.python, asked.mount


def start(there: PlannedRun, commit: str) -> tuple[str, ...]:
    """Gives the command of a worker that starts a run, whose workdir is that on the VM."""
    arguments = ("--coordinator=auto", *there.arguments)
    return "sh", SCRIPT.name, "start", commit, there.name, str(there.workdir), *arguments


def follow(one: PlannedRun, line: int) -> tuple[str, ...]:
    """Gives the command of a worker that shows the log of a run from a line on."""
    return "sh", SCRIPT.name, "follow", one.name, str(line)


def fetch(commands: gcloud.Commands, there: PlannedRun, one: PlannedRun) -> list[str]:
    """Gives the command that copies what is read of a run into its workdir here."""
    return commands.fetch([there.workdir / name for name in _FETCHED], one.workdir)


def judge(codes: Sequence[int | None], state: str) -> str:
    """Decides how it goes on after the processes of a run ended: "done", "failed" or "again".

    `codes` are their exit codes, None for a worker that could not be reached; `state` is the VM's.
    """
    if set(codes) == {0}:
        return "done"
    if state != READY or any(code is None or code > _KILLED for code in codes):
        return "again"  # Of the others, some may say that they never found the one that died.
    return "again" if set(codes) <= {0, STOPPED} else "failed"


class _NoVmError(Exception):
    """Says that no VM is to be had, and why."""


class TpuMachine:
    """One VM, and the runs that it is given.

    Args:
      name: of the VM.
      asked: what kind of one it is.
      logs: folder for what runs and gcloud say.
      bundle: the tree, which is at `commit`.
      secrets: environment variables of the runs.
      stop: whether all is to end.
    """

    def __init__(
        self,
        name: str,
        asked: Settings,
        logs: pathlib.Path,
        bundle: pathlib.Path,
        commit: str,
        secrets: dict[str, str],
        stop: StopSignal,
    ):
        self._name, self._asked, self._logs, self._bundle = name, asked, logs, bundle
        self._commit, self._secrets, self._stop = commit, secrets, stop
        self._commands = asked.commands(name)
        self._runner = gcloud.Runner(logs / f"{name}.log")
        self._num_workers, self._is_ours, self._is_installed = 0, False, False

    def check(self, bundle_command: list[str]) -> None:
        """Asks gcloud for the VM, so that one that cannot be used is refused; makes the bundle."""
        try:
            gcloud.described(self._commands, self._runner)
        except gcloud.GcloudError as error:
            raise UserError(f"gcloud cannot describe {self._name}: {error}") from None
        done = self._runner.run(bundle_command)
        if done.returncode:
            raise UserError(f"{shlex.join(bundle_command)}: {gcloud.last_line(done.stderr)}")

    def serve(
        self, todo: "queue.SimpleQueue[PlannedRun]", moved: dict[str, PlannedRun]
    ) -> list[str]:
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

    def _train(self, one: PlannedRun, there: PlannedRun) -> str:
        for attempt in range(1 + self._asked.max_restarts):
            if self._stop.is_told:
                return "stopped"
            if attempt:
                self._say(f"restart {one.name}, {attempt} of {self._asked.max_restarts}")
            self._make_ready()
            if attempt:  # Other workers may still wait for the one that died.
                self._stop_processes(one)
            codes = self._start_and_follow(one, there)
            state = self._state()
            kind = judge(codes, state)
            self._say(f"{one.name} ended with {', '.join(map(str, codes))}, and the VM is {state}")
            if kind == "again" and self._stop.is_told:
                kind = "stopped"
            if kind != "again":
                is_here = not self._asked.remote_folder or self._has_fetched(one, there, kind)
                return kind if is_here else "failed"
        return "failed"

    def _has_fetched(self, one: PlannedRun, there: PlannedRun, kind: str) -> bool:
        one.workdir.mkdir(parents=True, exist_ok=True)
        for attempt in range(_FETCH_ATTEMPTS if kind == "done" else 1):
            self._pause(self._asked.retry_seconds if attempt else 0.0)
            # What failed may have written nothing to fetch, so that this is tried once.
            done = self._runner.run(fetch(self._commands, there, one))
            if done.returncode == 0:
                return True
            self._say(f"{one.name} is not fetched: {gcloud.last_line(done.stderr)}")
        return False

    def _make_ready(self) -> None:
        """Has a VM with the tree on it; raises _NoVmError if there is none, or a signal came."""
        for attempt in range(self._asked.create_attempts):
            self._pause(self._asked.retry_seconds if attempt else 0.0)
            state = self._state()
            if state not in (READY, WAITING, ABSENT):
                if not self._is_ours:
                    raise _NoVmError(f"it is {state}, and no launcher made it: mend it")
                self._has_deleted()  # It is of no more use, and in the way of one of its name.
            if state not in (READY, WAITING):
                # Ours from here on, even if this fails: it may have been made all the same.
                self._is_installed, self._is_ours = False, True
                self._say(f"create, attempt {attempt + 1}")
                done = self._runner.run(create(self._commands, self._asked))
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
        def has(worker):
            for command in (
                self._commands.copy(worker, self._bundle, SCRIPT),
                self._commands.tell(worker, *install(self._asked, self._commit)),
            ):
                done = self._runner.run(command)
                if done.returncode:
                    error = gcloud.last_line(done.stderr)
                    self._say(f"not installed on worker {worker}: {error}")
                    return False
            return True

        self._is_installed = all(self._on_each(has))
        return self._is_installed

    def _on_each(self, act: Callable[[int], Any]) -> list[Any]:
        """Calls `act` for all workers at once; returns what it gives for each."""
        with concurrent.futures.ThreadPoolExecutor(self._num_workers) as pool:
            return list(pool.map(act, range(self._num_workers)))

    def _start_and_follow(self, one: PlannedRun, there: PlannedRun) -> list[int | None]:
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

    def _start(self, worker: int, there: PlannedRun) -> int | None:
        # By stdin, for a command line shows in `ps` and in gcloud's log.
        exports = [f"export {k}={shlex.quote(v)}\n" for k, v in self._secrets.items()]
        command = self._commands.tell(worker, *start(there, self._commit))
        done = self._runner.run(command, stdin="".join(exports))
        if done.returncode:
            self._say(f"not started on worker {worker}: {gcloud.last_line(done.stderr)}")
        return done.returncode if done.returncode in (0, 2) else None

    def _follow(self, worker: int, one: PlannedRun) -> int | None:
        """Copies the log of a worker's process; returns its exit code, None where it was lost."""
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
                # From the line where the connection broke, so that no line is there twice.
                self._runner.run(
                    self._commands.tell(worker, *follow(one, num_lines + 1)), on_line=copy
                )
                if code is not None or self._state() != READY:
                    break
        return code

    def _stop_processes(self, one: PlannedRun) -> None:
        words = ("sh", SCRIPT.name, "stop", one.name)
        self._on_each(lambda worker: self._runner.run(self._commands.tell(worker, *words)))

    def _state(self) -> str:
        try:
            state, node = gcloud.described(self._commands, self._runner)
        except gcloud.GcloudError as error:
            self._say(f"not described: {error}")
            return WAITING  # A state that is not known would have it deleted, and it may train.
        if node:
            self._is_ours = gcloud.label() in node["labels"].items()
        if state == READY:
            self._num_workers = gcloud.num_workers(node)
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
