"""Runs as jobs of a Slurm cluster, or of submitit's stand-in for one on this machine."""

import dataclasses
import functools
import json
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from experiments.launchers import remote
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.status_table import unfinished
from lm.errors import UserError
from lm.run import workdir as workdir_lib
from lm.run.status import state_of
from lm.system import atomic_files
from lm.system.supervisor import STOPPED, die_with

_JOBS = "jobs.json"  # In FOLDER/slurm: name of a run -> the job that it was last given to.
_LOG_LEVEL = "SUBMITIT_LOG_LEVEL"
_LOOK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of jobs; configs/launchers.py says what each is."""

    cluster: str
    partition: str
    account: str
    minutes: int
    nodes: int  # More than one: a process for each GPU, which find each other.
    gpus_per_node: int
    cpus_per_task: int
    memory_gb: int
    most_at_once: int
    signal_seconds: int
    max_requeues: int
    sbatch: tuple[str, ...]
    env_names: tuple[str, ...]
    wait: bool


def run(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> int:
    """Submits what is neither done nor queued, as one array of jobs.

    Returns 0 where all are submitted; with `wait`, 0 where all are done, 1 where some failed, and
    75 where a signal came while it waited: the jobs go on.

    Raises:
      UserError: the settings do not go together, or Slurm does not answer.
    """
    asked, submitit = _checked(settings), _submitit()
    executor = _executor(asked, folder)
    numbers = _known_jobs(folder)
    queued = _queued() if asked.cluster == "slurm" else set()
    waiting, jobs = [], []
    for one in unfinished(runs):
        if numbers.get(one.name) in queued:
            print(f"queued {one.name} as job {numbers[one.name]}")
            jobs.append(executor.job_class(executor.folder, numbers[one.name]))
        else:
            waiting.append(one)
    if waiting:
        try:  # One array, so that `most_at_once` holds for the sweep as a whole.
            submitted = executor.submit_array([_job(one, folder, asked) for one in waiting])
        except submitit.core.utils.FailedJobError as error:
            raise UserError(f"sbatch refused: {' '.join(str(error).split())[-500:]}") from None
        for one, job in zip(waiting, submitted, strict=True):
            numbers[one.name] = job.job_id
            print(f"submitted {one.name} as job {job.job_id}")
        jobs += submitted
        # By these the next call of this sweep knows what Slurm still has, and submits it once.
        atomic_files.write(folder / "slurm" / _JOBS, json.dumps(numbers, indent=1) + "\n")
    return _wait(runs, jobs) if asked.wait else 0


def check(**settings: Any) -> None:
    """Raises UserError where submitit, a program of Slurm's or a variable is missing."""
    asked = _checked(settings)
    _submitit()
    for program in ("sbatch", "srun", "squeue") if asked.cluster == "slurm" else ():
        remote.check_program("slurm", program, "log in to the cluster; or apt install slurm-client")
    remote.secrets(asked.env_names)  # Jobs inherit the environment, so that none is passed on.


def plan(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> str:
    """The sbatch file, and the command of each of its jobs."""
    asked = _checked(settings)
    _submitit()
    from submitit.slurm import slurm

    waiting = unfinished(runs)
    files = folder.absolute() / "slurm" / "%j"
    num = len(waiting) if len(waiting) > 1 else None  # One run is no array.
    python = f"{sys.executable} -u -m submitit.core._submit {files}"
    text = slurm._make_sbatch_string(python, files, map_count=num, **_parameters(asked))
    commands = [
        f"# {i}: {shlex.join(['launch.py', *_arguments(one, asked)])}"
        for i, one in enumerate(waiting)
    ]
    return "\n".join([text, *commands])


@dataclasses.dataclass
class Job:
    """Runs one `launch.py` of a tree for submitit, and is queued again after exit code 75."""

    root: pathlib.Path
    arguments: tuple[str, ...]
    log: pathlib.Path  # Of the first process; NAME.RANK.log is that of another.
    num_left: int  # Times that it may still be queued again.

    def __call__(self) -> int:
        """Returns 0, or 75 if another process queues it again; raises RuntimeError if it failed."""
        import submitit

        environment = submitit.JobEnvironment()
        log = self.log
        if environment.global_rank:
            log = log.with_suffix(f".{environment.global_rank}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        # By this one Slurm warns, before the time is up. Submitit's handler queues the job again at
        # once; so it gets the signal only after the process has saved.
        warning = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        queue_again = signal.getsignal(warning)
        with log.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "launch.py", *self.arguments],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Signals come once, through here: a second one would kill.
                preexec_fn=functools.partial(die_with, os.getpid()),
            )
        told = []

        def stop(signum, _):
            told.append(signum)
            if len(told) == 1:  # A second SIGTERM would end launch.py before it has saved.
                process.terminate()

        for signum in (warning, signal.SIGTERM):
            signal.signal(signum, stop)
        code = process.wait()
        signal.signal(warning, queue_again)
        if told and code in (-signal.SIGTERM, 128 + signal.SIGTERM):
            code = STOPPED  # It was still starting, and had nothing to save.
        if code == STOPPED and signal.SIGTERM not in told:  # That one is how Slurm cancels a job.
            signal.raise_signal(warning)
        if code not in (0, STOPPED):
            raise RuntimeError(f"exit code {code}: see {log}")
        return code

    def checkpoint(self):
        """Gives submitit what to queue again; None where this was the last time."""
        from submitit.helpers import DelayedSubmission

        if not self.num_left:
            return None
        return DelayedSubmission(dataclasses.replace(self, num_left=self.num_left - 1))


def _checked(settings: dict[str, Any]) -> Settings:
    asked = Settings(**settings)
    names = ("minutes", "nodes", "cpus_per_task", "memory_gb", "most_at_once")
    remote.check_at_least(1, asked, *names)
    remote.check_at_least(0, asked, "gpus_per_node", "signal_seconds", "max_requeues")
    if asked.cluster not in ("slurm", "local"):
        raise UserError(f"--launcher.cluster={asked.cluster} is unknown; choose slurm or local")
    _parameters(asked)
    return asked


def _job(one: PlannedRun, folder: pathlib.Path, asked: Settings) -> Job:
    log = folder.absolute() / "logs" / f"{one.name}.log"
    return Job(remote.ROOT, _arguments(one, asked), log, asked.max_requeues)


def _arguments(one: PlannedRun, asked: Settings) -> tuple[str, ...]:
    return (*one.arguments, "--coordinator=auto") if asked.nodes > 1 else one.arguments


def _executor(asked: Settings, folder: pathlib.Path):
    """Makes what submits jobs."""
    submitit = _submitit()
    files = folder.absolute() / "slurm"
    if asked.cluster == "local":  # No partition, memory or option of sbatch has a meaning there.
        local = submitit.LocalExecutor(files / "%j", max_num_timeout=asked.max_requeues)
        local.update_parameters(
            timeout_min=asked.minutes,
            gpus_per_node=asked.gpus_per_node,
            signal_delay_s=asked.signal_seconds,
            stderr_to_stdout=True,
        )
        return local
    executor = submitit.SlurmExecutor(files / "%j", max_num_timeout=asked.max_requeues)
    executor.update_parameters(**_parameters(asked))
    return executor


def _submitit():
    # While it is imported, it would close the handlers of all logging that was set up before.
    level = os.environ.get(_LOG_LEVEL)
    os.environ[_LOG_LEVEL] = "NOCONFIG"
    try:
        import submitit
    except ImportError:
        raise UserError("--launcher=slurm needs submitit: pip install submitit") from None
    finally:
        del os.environ[_LOG_LEVEL]
        if level is not None:
            os.environ[_LOG_LEVEL] = level
    return submitit


def _parameters(asked: Settings) -> dict[str, Any]:
    """Gives the settings by submitit's names."""
    more = {"requeue": True}  # The default is the cluster's, JobRequeue in its slurm.conf.
    for option in map(str, asked.sbatch):
        name, _, value = option.removeprefix("--").partition("=")
        if not option.startswith("--") or not name:
            raise UserError(f"--launcher.sbatch={option!r} must be --name=value, or --name")
        more[name] = value or True  # submitit writes an option that is True without a value.
    if asked.signal_seconds >= 60 * asked.minutes:
        raise UserError(
            f"--launcher.signal_seconds={asked.signal_seconds} is no less than "
            f"--launcher.minutes={asked.minutes}; lower it"
        )
    optional = {
        "partition": asked.partition,
        "account": asked.account,
        "gpus_per_node": asked.gpus_per_node,
    }
    return {name: value for name, value in optional.items() if value} | {
        "job_name": "lm",
        "time": asked.minutes,
        "nodes": asked.nodes,
        "ntasks_per_node": max(1, asked.gpus_per_node) if asked.nodes > 1 else 1,
        "cpus_per_task": asked.cpus_per_task,
        "mem": f"{asked.memory_gb}GB",
        "array_parallelism": asked.most_at_once,
        "signal_delay_s": asked.signal_seconds,
        "stderr_to_stdout": True,
        "additional_parameters": more,
        # A process that fails ends the others; and srun(1) does not inherit sbatch's cores.
        "srun_args": ["--kill-on-bad-exit=1", f"--cpus-per-task={asked.cpus_per_task}"],
        "setup": [f"cd {shlex.quote(str(remote.ROOT))}"],
    }


def _known_jobs(folder: pathlib.Path) -> dict[str, str]:
    path = folder / "slurm" / _JOBS
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = workdir_lib.read_json(path) if path.exists() else {}
    if not isinstance(numbers, dict):
        raise UserError(f"{path} is no table of jobs; see what `squeue --me` lists, and delete it")
    return numbers


def _queued() -> set[str]:
    """The user's jobs that run or wait, each element of an array by its own number."""
    command = ["squeue", "--me", "--array", "--noheader", "--format=%i"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{shlex.join(command)}: {done.stderr.strip()}; try again")
    return set(done.stdout.split())


def _wait(runs: Sequence[PlannedRun], jobs: Sequence[Any]) -> int:
    try:
        while not all(job.done() for job in jobs):
            time.sleep(_LOOK_SECONDS)
    except KeyboardInterrupt:
        print("the jobs go on; the same command waits for them again")
        return STOPPED
    kinds = [state_of(one.workdir).kind for one in runs]
    for one, kind in zip(runs, kinds, strict=True):
        print(f"{kind} {one.name}")
    return 0 if set(kinds) <= {"done"} else 1
