"""Runs as tasks of SkyPilot, on whichever cloud it finds the machines."""

import dataclasses
import json
import pathlib
import shlex
import subprocess
from collections.abc import Sequence
from typing import Any

from experiments.launchers import remote
from experiments.sweeps.plan import PlannedRun
from experiments.sweeps.status_table import unfinished
from lm.errors import UserError
from lm.system import atomic_files
from lm.system.supervisor import STOPPED

_PORT = 8476
_ENDED = ("SUCCEEDED", "CANCELLED", "FAILED")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a task; configs/launchers.py says what each is."""

    infra: str
    accelerators: str
    num_nodes: int
    cpus: str
    memory: str
    disk_gb: int
    use_spot: bool
    managed: bool
    mounts: tuple[str, ...]
    remote_folder: str
    python: str
    packages: tuple[str, ...]
    env_names: tuple[str, ...]


def run(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> int:
    """Hands `sky` what is neither done nor with it already; returns 0, or 1 if it refused some.

    Raises:
      UserError: SkyPilot does not answer, or the settings do not go together.
    """
    asked = _checked(settings)
    todo = unfinished(runs)
    # All of them before the first is submitted, for any may be refused.
    tasks = [task(remote.moved(one, folder, asked.remote_folder), asked) for one in todo]
    known, code = _known(asked), 0
    for one, text in zip(todo, tasks, strict=True):
        if _name(one) in known:
            print(f"{one.name} is with SkyPilot already, as {_name(one)}")
            continue
        path = _path(folder, one)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write(path, text)
        done = subprocess.run(_launch(one, path, asked), stdin=subprocess.DEVNULL)
        print(f"{'submitted' if done.returncode == 0 else 'refused'} {one.name}", flush=True)
        code = code or min(1, done.returncode)
    return code


def check(**settings: Any) -> None:
    """Raises UserError where SkyPilot or a variable is missing."""
    asked = _checked(settings)
    remote.check_program("skypilot", "sky", 'pip install "skypilot[gcp]", or of another cloud')
    remote.secrets(asked.env_names)


def plan(runs: Sequence[PlannedRun], folder: pathlib.Path, **settings: Any) -> str:
    """Gives the task of each run, and the command that takes it."""
    asked = _checked(settings)
    lines = []
    for one in unfinished(runs):
        lines.append(task(remote.moved(one, folder, asked.remote_folder), asked))
        lines.append(shlex.join(_launch(one, _path(folder, one), asked)) + "\n")
    return "\n".join(lines)


def task(there: PlannedRun, asked: Settings) -> str:
    """SkyPilot's YAML for one run, with the workdir that it has on the nodes.

    Raises:
      UserError: that would be lost with the node, or a mount cannot be read.
    """
    mounts = [mount.partition("=")[::2] for mount in asked.mounts]
    for path, bucket in mounts:
        if not path.startswith("/") or "://" not in bucket:
            raise UserError(f"--launcher.mounts={path}={bucket} must be like /mnt/runs=gs://BUCKET")
    if not any(there.workdir.is_relative_to(path) for path, _ in mounts):
        raise UserError(
            f"--workdir={there.workdir} is in none of --launcher.mounts={asked.mounts}, and would "
            "be lost with its node; mount a bucket, and name a folder in it"
        )
    resources = {
        "infra": asked.infra,
        "accelerators": asked.accelerators,
        "cpus": asked.cpus,
        "memory": asked.memory,
        "disk_size": asked.disk_gb,
        "use_spot": asked.use_spot,
        "job_recovery": {"recover_on_exit_codes": [STOPPED]} if asked.managed else "",
    }
    # A value as JSON is one as YAML.
    return "\n".join(
        [
            f"name: {_name(there)}",
            f"workdir: {json.dumps(str(remote.ROOT))}",
            f"num_nodes: {asked.num_nodes}",
            "resources:",
            *(f"  {k}: {json.dumps(v)}" for k, v in resources.items() if v != ""),
            *(["secrets:"] if asked.env_names else []),
            *(f"  {name}: null" for name in asked.env_names),
            "file_mounts:",
            *(
                f"  {path}: {json.dumps({'source': bucket, 'mode': 'MOUNT_CACHED'})}"
                for path, bucket in mounts
            ),
            "setup: |",
            *(f"  {line}" for line in _setup(asked)),
            "run: |",
            *(f"  {line}" for line in _command(there, asked)),
            "",
        ]
    )


def _checked(settings: dict[str, Any]) -> Settings:
    asked = Settings(**settings)
    remote.check_at_least(1, asked, "num_nodes", "disk_gb")
    return asked


def _setup(asked: Settings) -> list[str]:
    install = "uv pip install -q --python .venv/bin/python"
    return [
        "set -e",
        "command -v uv || { python3 -m pip install -q --user uv; PATH=$HOME/.local/bin:$PATH; }",
        f"uv venv -q --clear --python {asked.python} .venv",  # Setup may run again on a node.
        f"{install} --no-deps --require-hashes -r requirements.lock",
        *([f"{install} {shlex.join(asked.packages)}"] if asked.packages else []),
    ]


def _command(there: PlannedRun, asked: Settings) -> list[str]:
    command = f".venv/bin/python launch.py {shlex.join(there.arguments)}"
    if asked.num_nodes == 1:
        return [command]
    return [  # The coordinator runs on the node of rank 0, the first of the list.
        'first=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)',
        f"{command} --coordinator=$first:{_PORT} --num_processes=$SKYPILOT_NUM_NODES "
        "--process_id=$SKYPILOT_NODE_RANK",
    ]


def _launch(one: PlannedRun, path: pathlib.Path, asked: Settings) -> list[str]:
    where = (
        ["jobs", "launch", "--name", _name(one)]
        if asked.managed
        else ["launch", "--cluster", _name(one), "--down"]
    )
    # By its name alone: sky takes the value from the environment.
    secrets = [word for name in asked.env_names for word in ("--secret", name)]
    return ["sky", *where, "--detach-run", "--yes", *secrets, str(path)]


def _known(asked: Settings) -> set[str]:
    """The names of jobs that have not ended, or of clusters that are there."""
    # All that have not ended: by itself it shows the newest ones only.
    queue = ["sky", "jobs", "queue", "--all", "--skip-finished"]
    command = queue if asked.managed else ["sky", "status"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode or "Failed to query" in done.stdout:  # It says so, and exits with 0.
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise UserError(f"{shlex.join(command)}: {said}; see `sky check`")
    lines = [line for line in done.stdout.splitlines() if not any(end in line for end in _ENDED)]
    return {word for line in lines for word in line.split() if word.startswith("lm-")}


def _name(one: PlannedRun) -> str:
    return f"lm-{one.name}"


def _path(folder: pathlib.Path, one: PlannedRun) -> pathlib.Path:
    return folder / "skypilot" / f"{one.name}.yaml"
