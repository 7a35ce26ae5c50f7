"""Stands for `gcloud`: TPU VMs are folders below $FAKE, and their workers are shells in them.

It notes each call in $FAKE/calls.jsonl and reads from $FAKE/fates.json: "create", the number of
creations that fail; "workers" of a VM; "queued", the looks at a queued resource before it is there.
A VM's state is the file $FAKE/NAME/state. What runs on it may change that, and is then gone.
"""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

FAKE = pathlib.Path(os.environ["FAKE"])
fates = json.loads((FAKE / "fates.json").read_text())
with (FAKE / "calls.jsonl").open("a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\n")
assert sys.argv[1:3] == ["compute", "tpus"] and sys.argv[-1] == "--quiet"
assert "--zone=us-central1-a" in sys.argv, "gcloud would ask for the zone"
group, verb, *rest = sys.argv[3:]
options = dict(arg[2:].partition("=")[::2] for arg in rest if arg.startswith("--"))
words = [arg for arg in rest if not arg.startswith("--")]


def fail(text, code=1):
    print(f"ERROR: (gcloud.compute.tpus.{group}.{verb}) {text}", file=sys.stderr)
    sys.exit(code)


def spend(fate):
    fates[fate] -= 1
    (FAKE / "fates.json").write_text(json.dumps(fates))


def make(vm, options):
    labels = dict([options["labels"].split("=")]) if options["labels"] else {}
    vm.mkdir()
    (vm / "labels").write_text(json.dumps(labels))
    for i in range(fates["workers"]):
        (vm / str(i)).mkdir()
    (vm / "state").write_text("READY")


def is_ready(vm):
    return (vm / "state").exists() and (vm / "state").read_text() == "READY"


def ssh(vm, worker, command):
    """Ends with the command, or with the VM."""
    home = vm / worker
    shell = subprocess.Popen(
        ["sh", "-c", command],
        cwd=home,
        env={
            "PATH": f"{FAKE}/bin:/usr/bin:/bin",
            "FAKE": str(FAKE),
            "VM": str(vm),
            "HOME": str(home),
            "WORKER": worker,
        },
        start_new_session=True,
    )
    while shell.poll() is None:
        if not is_ready(vm):
            os.killpg(shell.pid, signal.SIGKILL)
            fail("[/usr/bin/ssh] exited with return code [255].")
        time.sleep(0.01)
    return shell.returncode


name = words[0].split(":")[0] if verb != "scp" else next(w for w in words if ":" in w).split(":")[0]
vm, request = FAKE / name, FAKE / f"{name}.request"
if verb in ("create", "describe", "delete"):
    assert len(words) == 1
if verb == "create":
    assert options["accelerator-type"] == "v6e-8"
    if fates["create"]:
        spend("create")
        fail("There is no more capacity in the zone (RESOURCE_EXHAUSTED)", 1)
    if group == "queued-resources":
        assert options["node-id"] == name and options["runtime-version"] == "v2-alpha-tpuv6e"
        request.write_text(json.dumps(options))
    else:
        assert options["version"] == "v2-alpha-tpuv6e"
        make(vm, options)
elif group == "queued-resources" and verb == "describe":
    if not request.exists():
        fail(f"NOT_FOUND: Resource '{name}' was not found")
    if fates["queued"]:
        spend("queued")
        labels = dict([json.loads(request.read_text())["labels"].split("=")])
        node = {"nodeSpec": [{"node": {"labels": labels}}]}
        print(json.dumps({"state": {"state": "WAITING_FOR_RESOURCES"}, "tpu": node}))
    else:
        if not vm.exists():
            make(vm, json.loads(request.read_text()))
        print(json.dumps({"state": {"state": "ACTIVE"}}))
elif verb == "describe":
    if not vm.exists():
        fail(f"NOT_FOUND: Resource '{name}' was not found")
    endpoints = [{"ipAddress": f"10.0.0.{i}"} for i in range(fates["workers"])]
    labels = json.loads((vm / "labels").read_text())
    described = {"state": (vm / "state").read_text(), "networkEndpoints": endpoints}
    print(json.dumps(described | ({"labels": labels} if labels else {})))
elif verb == "delete":
    assert (group == "queued-resources") == ("force" in options)
    if not vm.exists():
        fail(f"NOT_FOUND: Resource '{name}' was not found")
    (vm / "state").write_text("DELETING")
    time.sleep(0.1)  # What runs on it sees that, and ends.
    shutil.rmtree(vm)
    request.unlink(missing_ok=True)
elif not is_ready(vm):
    fail('Instance "PREEMPTED" is in an unusable terminal state.')
elif verb == "scp":
    *sources, target = words
    for source in sources:
        if target.endswith(":"):
            shutil.copy(source, vm / options["worker"])
        else:
            assert options["worker"] == "0"
            if fates["fetch"]:
                spend("fetch")
                fail("no route to host")
            shutil.copy(source.split(":")[1], target)
elif verb == "ssh":
    sys.exit(ssh(vm, options["worker"], options["command"]))
else:
    fail(f"Invalid choice: {shlex.join(sys.argv[1:])}", 2)
