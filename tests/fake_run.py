"""Stands for `launch.py` where a test starts many runs: counts steps in metrics.jsonl, no more.

Arguments: --workdir=FOLDER --steps=N --loss=X, and --do=fail, devices, wait (for a signal, before
the first step) or hang (after it).
"""

import json
import os
import pathlib
import signal
import sys
import time

args = dict(arg[2:].split("=", 1) for arg in sys.argv[1:])
workdir, do = pathlib.Path(args["workdir"]), args.get("do", "train")
workdir.mkdir(parents=True, exist_ok=True)
metrics = workdir / "metrics.jsonl"
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))


def write(step, **values):
    with metrics.open("a") as file:
        file.write(json.dumps({"step": step} | {k.replace("_", "/"): v for k, v in values.items()}))
        file.write("\n")


lines = metrics.read_text().splitlines() if metrics.exists() else []
first, num_steps = json.loads(lines[-1])["step"] if lines else 0, int(args.get("steps", 2))
with metrics.open("a") as file:
    file.write(json.dumps({"step": first, "run/num_steps": num_steps}) + "\n")
print(f"from step {first}", flush=True)
if do == "fail":
    print("error: the loss is a goat\n\n", flush=True)
    sys.exit(2)
if do == "devices":
    (workdir / "devices.json").write_text(
        json.dumps([sorted(os.sched_getaffinity(0)), os.environ.get("NPROC"), os.getsid(0)])
    )
for step in range(first + 1, num_steps + 1):
    while not told and (do == "wait" or (do == "hang" and step > 1)):
        time.sleep(0.01)
    if told:
        sys.exit(75)
    loss = float(args.get("loss", 1.0)) / step
    write(step, **dict.fromkeys(("train_loss", "eval_loss"), loss if loss == loss else None))
    time.sleep(float(args.get("seconds", 0.0)))
write(num_steps, **{"run_done": 1})
