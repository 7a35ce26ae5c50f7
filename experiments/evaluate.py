"""Evaluates a run's newest checkpoint on its own validation split, or on another corpus."""

import pathlib

import ml_collections

from experiments import build, runs
from lm.data.batches import evaluation_batches
from lm.errors import UserError
from lm.train.evaluation import evaluate


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Prints the metrics that training logs as eval/*; writes nothing, so `workdir` is not used."""
    del workdir
    if not config.checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    folder = pathlib.Path(config.checkpoint)
    loaded = runs.load(folder)
    corpus = ml_collections.ConfigDict({"data": config.data})
    if not config.data.source:
        if "data" not in loaded.config:
            raise UserError(f"{folder} was imported and has no data of its own; set data.source")
        corpus.data = loaded.config.data
    corpus.tokenizer = runs.tokenizer_block(folder)
    prepared = build.make_data(corpus, loaded.model.config)
    corpus.model, corpus.objective = loaded.config.model, _objective(folder, loaded)
    eval_step = build.make_eval_step(loaded.model, build.make_objective(corpus, prepared))
    is_causal = corpus.objective.kind == "causal"
    metrics = evaluate(
        loaded.params,
        eval_step,
        evaluation_batches(prepared, "validation", batch_size=config.data.batch_size),
        num_bytes=prepared.splits["validation"].num_predicted_bytes if is_causal else None,
    )
    print(f"{folder} at step {loaded.step}")
    for name, value in metrics.items():
        print(f"{name:>18} {value:.6f}")
    return 0


def _objective(folder: pathlib.Path, loaded: runs.Run) -> ml_collections.ConfigDict:
    """What the run was trained for; of an imported decoder, to go on with a text."""
    if "objective" in loaded.config:
        return loaded.config.objective
    if build.family_block(loaded.config.model).architecture == "decoder":
        return ml_collections.ConfigDict({"kind": "causal"})
    raise UserError(f"{folder} was imported and has no objective of its own; train it first")
