"""Folders of runs that never ran, for tests of what is read from them."""

import json


def write(folder, config, records, *, num_steps=9, done=True, tail=""):
    """A run's folder: `records` between the line of its start and that of its end."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    lines = [{"step": 0, "run/num_steps": num_steps}, *records]
    if done:
        lines.append({"step": num_steps, "run/done": 1})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + tail)
    return folder


def config(seed=0, lr=0.1, **more):
    """Of a training run, with what most sweeps vary."""
    return {"seed": seed, "optimizer": {"peak_lr": lr}, "train": {"num_steps": 9}} | more


def losses(*values, name="eval/loss"):
    """A record at each of the steps 1, 2, ...; None for NaN."""
    return [{"step": step, name: value} for step, value in enumerate(values, 1)]


def write_sweep(root, values, **more):
    """A run for each {(lr, seed): last loss}, in folders such as lr0.1-s0."""
    for (lr, seed), value in values.items():
        write(root / f"lr{lr}-s{seed}", config(seed, lr), losses(5.0, value), **more)
    return root
