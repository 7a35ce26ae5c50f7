"""Opens a finished (or running) run: its config, model, parameters and tokenizer."""

import pathlib
from typing import Any, NamedTuple

import ml_collections
from flax import linen as nn

from experiments import build
from lm import workdir as workdir_lib
from lm.data import tokenizers
from lm.train.checkpoints import restore_params


class Run(NamedTuple):
    """What a workdir holds."""

    config: ml_collections.ConfigDict
    model: nn.Module
    step: int
    params: Any
    tokenizer: tokenizers.Tokenizer


def load(folder: pathlib.Path, *, sequence_parts: int = 1) -> Run:
    """A run's best checkpoint where its config names a metric, else the newest; averaged weights
    where it keeps them.

    Args:
      folder: of the run.
      sequence_parts: devices that its model will read each row with.

    Raises:
      UserError: not a run's folder, or one without a checkpoint.
    """
    config = ml_collections.ConfigDict(workdir_lib.load_config(folder))
    causal = "objective" not in config or config.objective.kind == "causal"
    block = on_this_machine(config.model)
    model = build.make_model(block, causal=causal, sequence_parts=sequence_parts)
    step, params, _ = restore_params(folder / "checkpoints", **_best(config))
    return Run(config, model, step, params, tokenizers.load(folder / "tokenizer"))


def on_this_machine(block: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the `model` block of a run that another machine may have trained, to be read here.

    A kernel that it names gives way to the fastest one here, since all give the same numbers; but
    for the reference, which may have been named for a reason.
    """
    block = block.copy_and_resolve_references()
    if block.attention != "einsum":
        block.attention = "auto"
    return block


def _best(config: ml_collections.ConfigDict) -> dict[str, str]:
    """Which checkpoint of a run counts; what was imported has one."""
    if "checkpoint" not in config:
        return {}
    return {name: config.checkpoint[name] for name in ("best_metric", "best_mode")}


def tokenizer_block(folder: pathlib.Path) -> dict[str, str]:
    """The `tokenizer` block of a config that uses the tokenizer of this run or HF folder."""
    for name in ("tokenizer/sentencepiece.model", "tokenizer/tokenizer.json", "tokenizer.json"):
        path = folder / name
        if path.exists():
            return {"kind": "file", "path": str(path)}
    return {"kind": "bytes"}
