"""Jobs: real processes by submitit's local executor, and the file that a cluster would be given."""

import json
import os
import pathlib
import re
import shutil
import signal
import sys
import time

import ml_collections
import pytest

from experiments.launchers import remote, slurm
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run.status import state_of

ROOT = pathlib.Path(__file__).parent.parent.parent
SETTINGS = dict(
    cluster="slurm",
    partition="gpu",
    account="",
    minutes=60,
    nodes=1,
    gpus_per_node=2,
    cpus_per_task=8,
    memory_gb=64,
    most_at_once=3,
    signal_seconds=120,
    max_requeues=2,
    sbatch=("--constraint=a100", "--exclusive"),
    env_names=(),
    wait=False,
)
LOCAL = dict(cluster="local", gpus_per_node=0, minutes=60, signal_seconds=5, wait=True)
SECRET = "a-secret-1d3a77"
# Counts its lives; each ends as its digit says: 0 done, 1 stopped and resumable, 2 failed, 3 waits
# for SIGTERM and stops.
FAKE = """
import json, os, pathlib, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
args = dict(arg[2:].split("=", 1) for arg in sys.argv[1:])
workdir = pathlib.Path(args["workdir"])
workdir.mkdir(exist_ok=True)
metrics = workdir / "metrics.jsonl"
life = len(metrics.read_text().splitlines()) if metrics.exists() else 0
fate = {"0": 0, "1": 75, "2": 1, "3": 75}[args["lives"][life]]
print(f"life {life}", flush=True)
if args["lives"][life] == "3":
    (workdir / "parent").write_text(str(os.getppid()))
    signal.sigwait([signal.SIGTERM])
with metrics.open("a") as file:
    file.write(json.dumps({"step": life} | ({} if fate else {"run/done": 1})) + "\\n")
sys.exit(fate)
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A tree with a program that is quick to run."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "launch.py").write_text(FAKE)
    monkeypatch.setattr(remote, "ROOT", root)
    monkeypatch.setattr(slurm, "_LOOK_SECONDS", 0.02)
    return root


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands: sbatch keeps its file as cluster/N.sh, squeue prints cluster/queue."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "queue").write_text("")
    scripts = {
        "sbatch": f"n=$(ls {folder} | wc -l); cp $1 {folder}/$n.sh; echo Submitted batch job $n",
        "srun": "exit 1",
        "squeue": f'echo "$@" > {folder}/asked; cat {folder}/queue',
    }
    for name, text in scripts.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return folder


def make_run(folder, name, lives="0"):
    arguments = (f"--lives={lives}", f"--workdir={folder / name}")
    return PlannedRun(name, folder / name, {}, ml_collections.ConfigDict(), arguments)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_job_that_stops_is_queued_again_until_it_is_done(root, tmp_path, capsys):
    folder = tmp_path / "runs"
    folder.mkdir()
    run = make_run(folder, "a", "110")

    assert slurm.run([run], folder, **SETTINGS | LOCAL) == 0

    assert state_of(run.workdir).kind == "done"
    assert (folder / "logs" / "a.log").read_text() == "life 0\nlife 1\nlife 2\n"
    assert slurm.run([run], folder, **SETTINGS | LOCAL) == 0  # Done, so not submitted.
    assert capsys.readouterr().out.count("submitted") == 1


def test_a_run_that_fails_or_stops_too_often_ends(root, tmp_path, capsys):
    folder = tmp_path / "runs"
    folder.mkdir()
    runs = [make_run(folder, "bad", "2"), make_run(folder, "never", "1111"), make_run(folder, "ok")]

    assert slurm.run(runs, folder, **SETTINGS | LOCAL) == 1

    assert capsys.readouterr().out.splitlines()[-3:] == ["dead bad", "dead never", "done ok"]
    assert (folder / "logs" / "never.log").read_text() == "life 0\nlife 1\nlife 2\n"


@pytest.mark.parametrize("signum, lives", [(signal.SIGUSR2, 2), (signal.SIGTERM, 1)])
def test_a_warning_has_a_job_saved_and_queued_again_and_cancelling_only_saved(
    root, tmp_path, signum, lives
):
    folder = tmp_path / "runs"
    folder.mkdir()
    run = make_run(folder, "a", "30")
    slurm.run([run], folder, **SETTINGS | LOCAL | dict(wait=False))

    os.kill(int(awaited(run.workdir, "parent").read_text()), signum)

    awaited(folder / "slurm", "*/*_result.pkl")
    assert (folder / "logs" / "a.log").read_text() == "".join(f"life {i}\n" for i in range(lives))
    assert state_of(run.workdir).kind == ("done" if lives == 2 else "dead")


def awaited(folder, pattern):
    """The file that will be there."""
    for _ in range(1000):
        for path in folder.glob(pattern):
            if path.stat().st_size:
                return path
        time.sleep(0.02)
    raise AssertionError(f"{folder}/{pattern} never came")


def test_the_file_for_sbatch(cluster, tmp_path):
    folder = tmp_path / "runs"
    slurm.run([make_run(folder, name) for name in "abcd"], folder, **SETTINGS)

    (script,) = cluster.glob("*.sh")
    lines = script.read_text().splitlines()
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --array=0-3%3",
        "#SBATCH --constraint=a100",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --exclusive",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --job-name=lm",
        "#SBATCH --mem=64GB",
        "#SBATCH --nodes=1",
        "#SBATCH --ntasks-per-node=1",
        "#SBATCH --open-mode=append",
        f"#SBATCH --output={folder}/slurm/%A_%a/%A_%a_0_log.out",
        "#SBATCH --partition=gpu",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR2@120",
        "#SBATCH --time=60",
        "#SBATCH --wckey=submitit",
    ]
    assert f"cd {ROOT}" in lines
    assert lines[-1].startswith("srun --unbuffered --output ")
    assert f"--kill-on-bad-exit=1 --cpus-per-task=8 {sys.executable} -u -m submitit" in lines[-1]


def test_a_job_of_several_nodes_has_a_process_for_each_gpu_which_find_each_other(tmp_path):
    run = make_run(tmp_path, "a")
    many = slurm.plan([run, run], tmp_path, **SETTINGS | dict(nodes=2, gpus_per_node=4))
    assert "#SBATCH --nodes=2\n#SBATCH --ntasks-per-node=4" in many
    assert f"--lives=0 --workdir={tmp_path}/a --coordinator=auto" in many
    assert "coordinator" not in slurm.plan([run], tmp_path, **SETTINGS)


def test_what_is_queued_is_not_submitted_again(cluster, tmp_path, capsys):
    folder = tmp_path / "runs"
    runs = [make_run(folder, name) for name in "ab"]
    slurm.run(runs, folder, **SETTINGS)
    jobs = json.loads((folder / "slurm" / "jobs.json").read_text())
    (cluster / "queue").write_text(f"7\n{jobs['b']}\n")
    capsys.readouterr()

    slurm.run(runs, folder, **SETTINGS)

    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"queued b as job {jobs['b']}" and out[1].startswith("submitted a as job ")
    assert len(out) == 2
    assert "--me --array" in (cluster / "asked").read_text()


def test_a_secret_is_written_nowhere(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    folder = tmp_path / "runs"
    slurm.run([make_run(folder, "a")], folder, **SETTINGS | dict(env_names=("WANDB_API_KEY",)))

    written = files(tmp_path)
    assert any(path.suffix == ".pkl" for path in written)
    assert not [path for path, data in written.items() if SECRET.encode() in data]
    assert SECRET not in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"env_names": ("NOT_SET_HERE",)}, "env_names=NOT_SET_HERE.*export it"),
        ({"sbatch": ("constraint=x",)}, "sbatch='constraint=x'"),
        ({"signal_seconds": 3600}, "signal_seconds=3600.*minutes=60"),
        ({"cluster": "cloud"}, "cluster=cloud"),
        ({"cluster": "local", "minutes": -1}, "minutes=-1"),
        ({"max_requeues": -1}, "max_requeues=-1"),
        ({"nodes": 0}, "nodes=0"),
    ],
)
def test_what_cannot_work_is_refused(cluster, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        slurm.check(**SETTINGS | settings)
        slurm.run([make_run(tmp_path, "a")], tmp_path / "runs", **SETTINGS | settings)
    assert not list(cluster.glob("*.sh"))
    if "env_names" not in settings:  # These may be those of another machine, in a dry run.
        with pytest.raises(UserError, match=words):
            slurm.plan([make_run(tmp_path, "a")], tmp_path / "runs", **SETTINGS | settings)


@pytest.mark.parametrize("text", ['{"a": ', "[]"])
def test_a_damaged_table_of_jobs_is_named(cluster, tmp_path, text):
    (tmp_path / "slurm").mkdir()
    (tmp_path / "slurm" / "jobs.json").write_text(text)
    with pytest.raises(UserError, match=r"slurm/jobs\.json"):
        slurm.run([make_run(tmp_path, "a")], tmp_path, **SETTINGS)
    assert not list(cluster.glob("*.sh"))


def test_missing_programs_are_named_with_what_installs_them(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="needs `sbatch`"):
        slurm.check(**SETTINGS)
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=re.escape("pip install submitit")):
        slurm.check(**SETTINGS)
