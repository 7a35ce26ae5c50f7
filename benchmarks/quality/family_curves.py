"""Draws docs/results/families.png, and writes families.csv beside it.

Command:   python -m benchmarks.quality.family_curves runs/gpt2 runs/llama runs/bert runs/t5
Needs:     pip install matplotlib

The runs are those of configs/families.py. Beside each validation loss stands its unigram baseline:
the loss of always giving each token the frequency that it has among the targets of 200 training
batches, with one added to every count.
"""

import csv
import json
import pathlib
import sys

import jax
import matplotlib.pyplot as plt
import ml_collections
import numpy as np

from experiments.wiring import pretraining
from lm.corpus.batches import Batches, evaluation_batches
from lm.models.factory import make_model
from lm.run import workdir

_RESULTS = pathlib.Path(__file__).parents[2] / "docs/results"


def main(folders: list[str]) -> None:
    """Reads the runs, in the order in which they are to be drawn."""
    figure, axes = plt.subplots(1, len(folders), figsize=(4 * len(folders), 3.6), sharex=True)
    with (_RESULTS / "families.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["family", "step", "train_loss", "validation_loss", "unigram_loss"])
        for folder, axis in zip(map(pathlib.Path, folders), axes, strict=True):
            config = ml_collections.ConfigDict(workdir.load_config(folder))
            baseline = unigram_loss(config)
            lines = [json.loads(x) for x in (folder / "metrics.jsonl").read_text().splitlines()]
            curves = {
                name: [(line["step"], line[key]) for line in lines if key in line]
                for name, key in (("train", "train/loss"), ("validation", "eval/loss"))
            }
            for step, loss in curves["train"]:
                held_out = dict(curves["validation"]).get(step, "")
                table.writerow([folder.name, step, loss, held_out, baseline])
            draw(axis, folder.name, config.objective.kind, curves, baseline)
            print(folder.name, f"{curves['validation'][-1][1]:.3f} of {baseline:.3f}")
    axes[0].set_ylabel("nats a token")
    figure.tight_layout()
    figure.savefig(_RESULTS / "families.png", dpi=110)


def unigram_loss(config: ml_collections.ConfigDict) -> float:
    """Nats a target of the validation split."""
    model = make_model(config.model, causal=config.objective.kind == "causal")
    prepared = pretraining.make_data(config.data, config.tokenizer, config.model.vocab_size)
    objective = jax.jit(pretraining.make_objective(config.objective, model, prepared))
    counts = np.ones(config.model.vocab_size)
    batches = Batches(prepared, "train", batch_size=config.data.batch_size, seed=config.seed)
    for step, rows in enumerate(batches.iterate(0, 200)):
        batch = objective(rows, jax.random.key(step))
        np.add.at(counts, np.asarray(batch.targets_BL)[np.asarray(batch.weights_BL) > 0], 1)
    nll = -np.log(counts / counts.sum())
    losses = []
    for rows in evaluation_batches(prepared, "validation", batch_size=config.eval.batch_size):
        batch = objective(rows, jax.random.key(0))
        losses.append(nll[np.asarray(batch.targets_BL)][np.asarray(batch.weights_BL) > 0])
    return float(np.concatenate(losses).mean())


def draw(axis, family: str, kind: str, curves: dict, baseline: float) -> None:
    """One family's curves over its baseline."""
    axis.plot(*zip(*curves["train"], strict=True), color="#9ec1e0", label="train")
    steps, losses = zip(*curves["validation"], strict=True)
    axis.plot(steps, losses, "o-", color="#1f5f99", markersize=4, label="validation")
    axis.axhline(baseline, color="#b5512e", linestyle="--", label="unigrams")
    axis.set(title=f"{family}, {kind.replace('_', ' ')}", xlabel="step", ylim=(1.5, 7.8))
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    main(sys.argv[1:])
