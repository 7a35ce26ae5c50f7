"""Tasks for SkyPilot: the file, and how a `sky` that only notes its calls is called."""

import json
import os
import shutil
import sys

import ml_collections
import pytest
import yaml

from experiments.launchers import remote, skypilot
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError

SETTINGS = dict(
    infra="gcp",
    accelerators="H100:8",
    num_nodes=1,
    cpus="",
    memory="64+",
    disk_gb=200,
    use_spot=True,
    managed=True,
    mounts=("/mnt/runs=gs://bucket",),
    remote_folder="/mnt/runs/rates",
    python="3.11",
    packages=("jax[cuda13]",),
    env_names=("WANDB_API_KEY",),
)
SECRET = "a-secret-1d3a77"


@pytest.fixture
def sky(tmp_path, monkeypatch):
    """Its calls, a line each."""
    path, calls, answer = tmp_path / "bin" / "sky", tmp_path / "calls", tmp_path / "answer"
    path.parent.mkdir()
    answer.write_text("")
    path.write_text(
        f"#!{sys.executable} -S\nimport json, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(calls)!r}, 'a'))\n"
        f"print(open({str(answer)!r}).read() if 'queue' in sys.argv else '')\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    return calls


def make_run(folder, name):
    arguments = ("--config=a.py:b=it's", f"--workdir={folder / name}")
    return PlannedRun(name, folder / name, {}, ml_collections.ConfigDict(), arguments)


def test_the_task(tmp_path):
    text, command = skypilot.plan([make_run(tmp_path, "a")], tmp_path, **SETTINGS).rsplit("\n\n", 1)
    command = command.strip()
    assert yaml.safe_load(text + "\n") == {
        "name": "lm-a",
        "workdir": str(remote.ROOT),
        "num_nodes": 1,
        "resources": {
            "infra": "gcp",
            "accelerators": "H100:8",
            "memory": "64+",
            "disk_size": 200,
            "use_spot": True,
            "job_recovery": {"recover_on_exit_codes": [75]},
        },
        "secrets": {"WANDB_API_KEY": None},
        "file_mounts": {"/mnt/runs": {"source": "gs://bucket", "mode": "MOUNT_CACHED"}},
        "setup": "set -e\n"
        "command -v uv || { python3 -m pip install -q --user uv; PATH=$HOME/.local/bin:$PATH; }\n"
        "uv venv -q --clear --python 3.11 .venv\n"
        "uv pip install -q --python .venv/bin/python --no-deps --require-hashes "
        "-r requirements.lock\n"
        "uv pip install -q --python .venv/bin/python 'jax[cuda13]'\n",
        "run": ".venv/bin/python launch.py '--config=a.py:b=it'\"'\"'s' "
        "--workdir=/mnt/runs/rates/a\n",
    }
    assert command == (
        f"sky jobs launch --name lm-a --detach-run --yes --secret WANDB_API_KEY "
        f"{tmp_path}/skypilot/a.yaml"
    )


def test_several_nodes_find_each_other(tmp_path):
    text = skypilot.plan([make_run(tmp_path, "a")], tmp_path, **SETTINGS | dict(num_nodes=2))
    assert (
        "--coordinator=$first:8476 --num_processes=$SKYPILOT_NUM_NODES "
        "--process_id=$SKYPILOT_NODE_RANK\n" in text
    )


def test_tasks_are_handed_over_once_and_secrets_by_name(sky, tmp_path, capfd):
    folder = tmp_path / "runs"
    runs = [make_run(folder, name) for name in "abc"]
    (runs[2].workdir).mkdir(parents=True)
    (runs[2].workdir / "metrics.jsonl").write_text('{"step": 3, "run/done": 1}\n')
    (tmp_path / "answer").write_text("1  -  lm-a  8x[H100]  SUCCEEDED\n2  -  lm-b  RECOVERING\n")

    assert skypilot.run(runs, folder, **SETTINGS) == 0

    calls = [json.loads(line) for line in sky.read_text().splitlines()]
    assert [call[:2] for call in calls] == [["jobs", "queue"], ["jobs", "launch"]]
    assert calls[1][-1] == f"{folder}/skypilot/a.yaml"
    assert os.path.exists(calls[1][-1])
    assert "b is with SkyPilot already" in capfd.readouterr().out
    written = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path, data in written.items() if SECRET.encode() in data]


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(num_nodes=0), "num_nodes=0"),
        (dict(disk_gb=-1), "disk_gb=-1"),
        (dict(mounts=()), "lost with its node"),
        (dict(remote_folder="/mnt/other"), "lost with its node"),
        (dict(mounts=("/mnt/runs",)), "must be like"),
        (dict(env_names=("NOT_SET",)), "env_names=NOT_SET"),
    ],
)
def test_what_cannot_work_is_refused(sky, tmp_path, settings, words):
    with pytest.raises(UserError, match=words):
        skypilot.check(**SETTINGS | settings)
        skypilot.run([make_run(tmp_path, "a")], tmp_path, **SETTINGS | settings)
    assert not sky.exists()


def test_a_queue_that_is_not_known_is_no_empty_one(sky, tmp_path):
    (tmp_path / "answer").write_text("Failed to query managed jobs: no controller\n")

    with pytest.raises(UserError, match=r"sky jobs queue .*no controller"):
        skypilot.run([make_run(tmp_path, "a")], tmp_path, **SETTINGS)
    assert len(sky.read_text().splitlines()) == 1


def test_a_missing_sky_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r'needs `sky`.*pip install "skypilot\[gcp\]"'):
        skypilot.check(**SETTINGS)
