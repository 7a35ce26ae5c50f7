"""TPU VMs, end to end against a `gcloud` whose VMs are folders of this machine."""

import functools
import hashlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import ml_collections
import pytest

from experiments.launchers import gcloud, remote, tpu_machine, tpu_vm
from experiments.sweeps.plan import PlannedRun
from lm.errors import UserError
from lm.run.status import state_of

HERE = pathlib.Path(__file__).parent
SETTINGS = dict(
    name="vm",
    zone="us-central1-a",
    project="",
    accelerator_type="v6e-8",
    runtime_version="v2-alpha-tpuv6e",
    provisioning="spot",
    queued=False,
    num_vms=1,
    create_args=(),
    ssh_args=(),
    python="3.11",
    mount="",
    remote_folder="",
    env_names=(),
    keep=False,
    max_restarts=5,
    create_attempts=3,
    retry_seconds=0.05,
    poll_seconds=0.05,
)
SECRET = "it's a secret $1d3a77"
# One worker's process: it goes on from the last step, and ends as the fate of its life says.
PROGRAM = """
import hashlib, json, os, pathlib, signal, sys, time
args = dict(arg[2:].split("=", 1) for arg in sys.argv[1:])
worker, vm, workdir = int(os.environ["WORKER"]), pathlib.Path(os.environ["VM"]), args["workdir"]
assert args["coordinator"] == "auto"
workdir = pathlib.Path(workdir)
workdir.mkdir(exist_ok=True)
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
lives = workdir / f"lives.{worker}"
life = len(lives.read_text()) if lives.exists() else 0
with lives.open("a") as file:
    file.write(".")
fate, dead = args["fates"].split(",")[life], workdir / f"dead.{life}"
metrics = workdir / "metrics.jsonl"
step = len(metrics.read_text().splitlines()) if metrics.exists() else 0
print(f"worker {worker} from step {step}", flush=True)
if "WANDB_API_KEY" in os.environ:
    digest = hashlib.sha256(os.environ["WANDB_API_KEY"].encode()).hexdigest()
    (workdir / f"digest.{worker}").write_text(digest)
if worker == 0:
    for name in ("config.json", "provenance.json"):
        (workdir / name).write_text(json.dumps(sys.argv))
    record = {"step": step + 1} | ({"run/done": 1} if fate == "done" else {})
    with metrics.open("a") as file:
        file.write(json.dumps(record) + "\\n")
calls = vm.parent / "calls.jsonl"
if fate == "preempt" and worker == 0:
    while calls.read_text().count("follow") < 2:
        time.sleep(0.01)
    (vm / "state").write_text("PREEMPTED")
if fate == "die" and worker == 1:
    dead.write_text("")
    os.kill(os.getpid(), signal.SIGKILL)
while fate in ("preempt", "die", "wait") and not told:
    if not (vm / "state").exists() or (vm / "state").read_text() != "READY":
        os.killpg(0, signal.SIGKILL)
    if dead.exists():
        break
    time.sleep(0.01)
if told:
    (workdir / "saved").write_text("")
sys.exit({"done": 0, "fail": 1}.get(fate, 75))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Where the VMs are, and the programs that are on them."""
    fake = tmp_path / "fake"
    (fake / "bin").mkdir(parents=True)
    (fake / "fs").write_text("nfs\n")
    set_fates(fake)
    here = tmp_path / "bin"
    here.mkdir()
    for path, text in {
        here / "gcloud": f'exec {sys.executable} -S {HERE}/fake_gcloud.py "$@"',
        fake / "bin" / "stat": 'cat "$FAKE/fs"',
        fake / "bin" / "uv": 'echo "$@" >> "$FAKE/uv"; [ "$1" = pip ] && exit; mkdir -p .venv/bin; '
        f"printf '#!/bin/sh\\nexec {sys.executable} -S \"$@\"' > .venv/bin/python; "
        "chmod +x .venv/bin/python",
    }.items():
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(fake))
    for module in (tpu_vm, tpu_machine):
        monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    return fake


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A tree of one commit."""
    root = tmp_path / "tree"
    root.mkdir()
    (root / "launch.py").write_text(PROGRAM)
    (root / ".gitignore").write_text(".venv*/\n")
    git = ["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b.c"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "One"]):
        subprocess.run([*git, *args], check=True)
    monkeypatch.setattr(remote, "ROOT", root)
    return root


@pytest.fixture
def shared(tmp_path):
    """What workers mount."""
    (tmp_path / "shared").mkdir()
    return tmp_path / "shared"


def set_fates(fake, create=0, workers=2, queued=0, fetch=0):
    fates = {"create": create, "workers": workers, "queued": queued, "fetch": fetch}
    (fake / "fates.json").write_text(json.dumps(fates))


def make_run(folder, name, fates="done"):
    arguments = (f"--fates={fates}", f"--workdir={folder / name}")
    return PlannedRun(name, folder / name, {}, ml_collections.ConfigDict(), arguments)


def calls(fake):
    return [json.loads(line) for line in (fake / "calls.jsonl").read_text().splitlines()]


def verbs(fake):
    """What was called, but for looks at the state."""
    told = []
    for call in calls(fake):
        command = next((arg for arg in call if arg.startswith("--command=")), "")
        told.append(command.split()[2] if command else call[3])
    return [verb for verb in told if verb != "describe"]


def test_a_run_survives_what_happens_to_its_vm(fake, root, shared, tmp_path, monkeypatch, capsys):
    set_fates(fake, create=1)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    folder = tmp_path / "runs"
    run = make_run(folder, "a", "preempt,die,done")
    settings = SETTINGS | dict(remote_folder=str(shared), env_names=("WANDB_API_KEY",))

    assert tpu_vm.run([run], folder, **settings) == 0

    install, start = ["scp", "scp", "install", "install"], ["start"] * 2 + ["follow"] * 2
    told = verbs(fake)
    for i, verb in enumerate(told[:-1]):  # One worker's copy may be done before another's begins.
        if (verb, told[i + 1]) == ("install", "scp"):
            told[i : i + 2] = "scp", "install"
    assert told == [
        *["create", "create", *install, *start],  # The first creation fails.
        *["delete", "create", *install, "stop", "stop", *start],  # The VM is preempted.
        *["stop", "stop", *start],  # A worker died; the VM is still there.
        *["scp", "delete"],
    ]
    log = (folder / "logs" / "a.log").read_text()
    assert log.endswith("worker 0 from step 1\nworker 0 from step 2\n")
    assert "worker 1 from step" in (folder / "logs" / "a.1.log").read_text()
    assert state_of(run.workdir).kind == "done"  # Of what was fetched.
    assert not (fake / "vm").exists()
    out = capsys.readouterr().out
    assert "vm: not created: ERROR: (gcloud.compute.tpus.tpu-vm.create) There is no more" in out
    assert "a ended with 75, 137, and the VM is READY" in out and "a | worker 0 from step 2" in out
    num_calls = len(calls(fake))
    assert tpu_vm.run([run], folder, **settings) == 0  # Done: no VM is made for it.
    assert len(calls(fake)) == num_calls

    # The processes had the secret; nothing that was called, written or printed holds it.
    digest = hashlib.sha256(SECRET.encode()).hexdigest()
    assert [(shared / "a" / f"digest.{i}").read_text() for i in range(2)] == [digest] * 2
    text = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert not [path for path, data in text.items() if b"1d3a77" in data]
    assert "1d3a77" not in out


@pytest.mark.parametrize("num_lost, code", [(1, 0), (3, 1)])
def test_a_result_that_cannot_be_fetched_is_tried_again_and_then_missed(
    fake, root, shared, tmp_path, capsys, num_lost, code
):
    set_fates(fake, fetch=num_lost)
    folder = tmp_path / "runs"
    run = make_run(folder, "a")

    assert tpu_vm.run([run], folder, **SETTINGS | dict(remote_folder=str(shared))) == code

    assert capsys.readouterr().out.count("a is not fetched: ERROR: ") == num_lost
    assert (run.workdir / "metrics.jsonl").exists() == (code == 0)


def test_the_tree_and_the_locked_packages_are_installed(fake, root, shared):
    run = make_run(shared, "a")
    assert tpu_vm.run([run], shared, **SETTINGS | dict(mount="touch mounted", keep=True)) == 0

    home = fake / "vm" / "1"
    commit = remote.commit()
    head = ["git", "-C", home / f"lm-{commit}", "rev-parse", "HEAD"]
    assert subprocess.run(head, capture_output=True, text=True).stdout.strip() == commit
    status = ["git", "-C", home / f"lm-{commit}", "status", "--porcelain"]
    assert subprocess.run(status, capture_output=True, text=True).stdout == ""
    assert (home / "mounted").exists()
    assert set((fake / "uv").read_text().splitlines()) == {
        "venv -q --python 3.11 .venv",
        "pip install -q --python .venv/bin/python --no-deps --require-hashes "
        "-r requirements.lock -r requirements-tpu.lock",
    }
    assert state_of(run.workdir).kind == "done"  # Where --workdir is what all share.


def test_the_dry_run_prints_what_is_run(fake, root, shared, tmp_path, monkeypatch):
    set_fates(fake, workers=1)
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    folder = tmp_path / "a folder"
    runs = [make_run(folder, name) for name in "ab"]
    settings = SETTINGS | dict(remote_folder=str(shared), env_names=("WANDB_API_KEY",))
    planned = tpu_vm.plan(runs, folder, **settings)
    assert not folder.exists() and not (fake / "calls.jsonl").exists()

    assert tpu_vm.run(runs, folder, **settings) == 0

    planned = [shlex.split(x)[1:] for x in planned.splitlines() if x.startswith("gcloud")]
    looks = planned[0]
    assert looks[3] == "describe"
    assert planned[1:] == [call for call in calls(fake) if call != looks]
    assert SECRET not in str(planned)


def test_a_failing_run_stops_no_other_and_is_not_tried_again(fake, root, shared, capsys):
    set_fates(fake, workers=1)
    runs = [make_run(shared, "bad", "fail,done"), make_run(shared, "good")]
    assert tpu_vm.run(runs, shared, **SETTINGS) == 1
    assert [state_of(run.workdir).kind for run in runs] == ["dead", "done"]
    assert verbs(fake)[-1] == "delete"


def test_runs_go_to_several_vms(fake, root, shared):
    set_fates(fake, workers=1)
    runs = [make_run(shared, name) for name in "abc"]
    assert tpu_vm.run(runs, shared, **SETTINGS | dict(num_vms=2)) == 0
    assert [state_of(run.workdir).kind for run in runs] == ["done"] * 3
    made = {call[4] for call in calls(fake) if call[3] == "create"}
    assert made == {"vm-0", "vm-1"}
    assert not (fake / "vm-0").exists() and not (fake / "vm-1").exists()


def test_a_signal_has_the_run_saved_and_the_vm_deleted(fake, root, shared):
    set_fates(fake, workers=1)
    run = make_run(shared, "a", "wait,done")

    def interrupt():
        while not (shared / "a" / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    assert tpu_vm.run([run], shared, **SETTINGS) == 75

    assert (shared / "a" / "saved").exists()
    assert verbs(fake).count("stop") == 1 and verbs(fake)[-1] == "delete"
    assert not (fake / "vm").exists()
    assert tpu_vm.run([run], shared, **SETTINGS) == 0
    assert (shared / "logs" / "a.log").read_text() == "worker 0 from step 0\nworker 0 from step 1\n"


def test_a_vm_that_others_made_is_used_and_stays(fake, root, shared):
    other = fake / "vm"
    for worker in "01":
        (other / worker).mkdir(parents=True)
    (other / "state").write_text("READY")
    (other / "labels").write_text("{}")
    assert tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS) == 0
    assert not {"create", "delete"} & set(verbs(fake)) and other.exists()


def test_two_launchers_do_not_share_a_vm(fake, root, shared):
    with gcloud.held("vm"), pytest.raises(UserError, match="name=vm: another launcher"):
        tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS)
    assert not (fake / "calls.jsonl").exists()


def test_a_queued_resource_is_waited_for_and_deleted(fake, root, shared):
    set_fates(fake, workers=1, queued=3)
    settings = SETTINGS | dict(queued=True)
    assert tpu_vm.run([make_run(shared, "a")], shared, **settings) == 0
    groups = [call[2] for call in calls(fake) if call[3] in ("create", "delete")]
    assert groups == ["queued-resources"] * 2
    assert not (fake / "vm").exists() and not (fake / "vm.request").exists()


def test_where_there_is_no_vm_to_be_had_the_run_can_go_on_later(fake, root, shared, capsys):
    set_fates(fake, create=9)
    assert tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS) == 75
    assert verbs(fake) == ["create"] * 3 + ["delete"]  # One may have come after all.
    assert "no VM: none after 3 attempts" in capsys.readouterr().out


def test_a_workdir_that_would_be_lost_with_the_vm_is_refused(fake, root, shared, capsys):
    (fake / "fs").write_text("ext2/ext3\n")
    assert tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS) == 1
    assert "is on a disk of this worker alone" in capsys.readouterr().out
    assert not (shared / "a").exists() and not (fake / "vm").exists()


@pytest.mark.parametrize(
    "settings, words",
    [
        (dict(env_names=("NOT_SET",)), "env_names=NOT_SET"),
        (dict(provisioning="cheap"), "provisioning=cheap"),
        (dict(queued=True, provisioning="preemptible"), "choose spot"),
        (dict(num_vms=0), "num_vms=0"),
        (dict(poll_seconds=-1.0), "poll_seconds=-1.0"),
        (dict(create_attempts=0), "create_attempts=0"),
        (dict(name="../vm"), "name='../vm'"),
        (dict(accelerator_type=""), "accelerator_type must be set"),
        (dict(remote_folder="runs"), "absolute"),
    ],
)
def test_what_cannot_work_is_refused(fake, root, shared, settings, words):
    with pytest.raises(UserError, match=words):
        tpu_vm.check(**SETTINGS | settings)
        tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS | settings)
    assert not (fake / "calls.jsonl").exists() and not list(shared.iterdir())


def test_changes_that_are_in_no_commit_are_refused(fake, root, shared):
    (root / "launch.py").write_text("")
    with pytest.raises(UserError, match=r"launch\.py differ from HEAD"):
        tpu_vm.run([make_run(shared, "a")], shared, **SETTINGS)


def test_a_missing_gcloud_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match=r"`gcloud`.*sdk\.cloud\.google\.com"):
        tpu_vm.check(**SETTINGS)


@pytest.mark.parametrize(
    "codes, state, what",
    [
        ([0, 0], "READY", "done"),
        ([0, 0], "PREEMPTED", "done"),
        ([75, 75], "READY", "again"),
        ([None, None], "PREEMPTED", "again"),
        ([1, 75], "PREEMPTED", "again"),
        ([2, 137], "READY", "again"),
        ([0, None], "READY", "again"),
        ([1, 75], "READY", "failed"),
        ([2, 2], "READY", "failed"),
    ],
)
def test_what_follows_from_how_the_workers_ended(codes, state, what):
    assert tpu_machine.judge(codes, state) == what


def test_commands_say_where_only_if_they_are_told():
    make = functools.partial(gcloud.Commands, "a", ssh_args=(), is_queued=False)
    assert shlex.join(make(zone="", project="").delete()) == (
        "gcloud compute tpus tpu-vm delete a --quiet"
    )
    assert shlex.join(make(zone="z", project="p").delete()) == (
        "gcloud compute tpus tpu-vm delete a --zone=z --project=p --quiet"
    )
