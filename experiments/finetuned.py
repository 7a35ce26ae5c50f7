"""Task models: made, filled with the parameters of another model, and opened after training."""

import pathlib
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from experiments import build, labelled, runs, tasks
from experiments.trained import Trained, checksum
from lm import workdir as workdir_lib
from lm.data import tokenizers
from lm.errors import UserError
from lm.interop import hugging_face
from lm.models import mup
from lm.models.families import param_shapes
from lm.models.lora import LoraConfig
from lm.tasks.task import Task
from lm.train import sharding
from lm.train.checkpoints import restore_params
from lm.train.state import Params


def make_model(config: ml_collections.ConfigDict, task: Task) -> nn.Module:
    """The task's model on the family that the config names."""
    base = build.make_model(config.model, **build.rows_of(config))
    if mup.growth(base.config) and not config.init_from:
        raise UserError(
            f"model.mup_model_dim={base.config.mup_model_dim} is about pretraining; make it and "
            "the other model.mup_* 0, or name a run that has them with init_from"
        )
    return task.module(build.family_block(config.model), base.config)


def task_params(
    config: ml_collections.ConfigDict, task: Task, model: nn.Module, mesh: Mesh | None
) -> tuple[Params, list[str]]:
    """Parameters of a task model: of `init_from` as far as it has them, else random.

    Args:
      config: with its model block complete.
      task: makes random parameters.
      model: what `task` made.
      mesh: over which the parameters are cut, so that no device holds more than its part; None
        leaves those of `init_from` to the host, and draws the others on one device.

    Returns:
      The parameters, and lines that say what was new and what was left out.

    Raises:
      UserError: `init_from` lacks what the model's body needs, or has it in another shape.
    """
    draw, key = lambda key: task.init_params(model, key), jax.random.key(config.seed)
    shapes = jax.eval_shape(draw, key)
    shardings = None if mesh is None else sharding.params_sharding(shapes, mesh)
    if not config.init_from:
        return jax.jit(draw, out_shardings=shardings)(key), []
    folder = pathlib.Path(config.init_from)
    source = _all_params(folder, config)
    family = build.family_block(config.model)
    if isinstance(model, family.module):
        wanted = {path: path for path in flatten_dict(shapes)}
    else:
        at = family.body_path
        wanted = {("body", *p): (*at, *p) for p in flatten_dict(shapes["body"])}
        wanted |= {("pool", *p): p for p in flatten_dict(shapes.get("pool", {}))}
    found, new = {}, []
    for path, shape in flatten_dict(shapes).items():
        theirs = source.get(wanted.get(path))
        if theirs is None and path[0] == "body":
            raise UserError(f"init_from={folder} lacks {'/'.join(wanted[path])}")
        if theirs is None:
            new.append(path)
            continue
        if theirs.shape != shape.shape:
            raise UserError(
                f"init_from={folder}: {'/'.join(wanted[path])} has shape {theirs.shape} there and "
                f"{shape.shape} in this config's model"
            )
        found[path] = np.asarray(theirs)  # On no device yet.
    of_new = lambda tree: tree and {path: flatten_dict(tree)[path] for path in new}
    drawn = jax.jit(lambda key: of_new(draw(key)), out_shardings=of_new(shardings))(key)
    params = unflatten_dict(found)
    if mesh is not None:
        params = sharding.place_params(params, mesh)
    unused = source.keys() - set(wanted.values())
    names = lambda paths: ", ".join("/".join(path) for path in paths) or "nothing"
    lines = [f"new: {names(new)}", f"left out: {names(sorted(unused))}"]
    return unflatten_dict(flatten_dict(params) | drawn), lines


def _all_params(
    folder: pathlib.Path, config: ml_collections.ConfigDict
) -> dict[tuple[str, ...], Any]:
    """By path, as the family's module with its output has them; whatever the folder lacks, too."""
    if not hugging_face.is_folder(folder):
        if workdir_lib.load_config(folder)["experiment"] == "finetune":
            return as_in_module(load(folder).params, config)
        return flatten_dict(runs.load(folder).params)
    model = build.make_model(config.model, causal=True)
    shapes = {path: x.shape for path, x in flatten_dict(param_shapes(model)).items()}
    # What is missing is filled with zeros, and not returned.
    zeros = lambda: {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    loaded = hugging_face.load_params(folder, shapes, initial=zeros, allow_unknown=True)
    missing = set(loaded.missing)
    return {p: x for p, x in flatten_dict(loaded.params).items() if p not in missing}


def as_in_module(params: Params, config: ml_collections.ConfigDict) -> dict[tuple[str, ...], Any]:
    """A task model's parameters by the paths that the family's own module has for them."""
    at = build.family_block(config.model).body_path
    return {
        (*at, *path[1:]) if path[0] == "body" else path[1:] if path[0] == "pool" else path: x
        for path, x in flatten_dict(params).items()
    }


class FineTuned(NamedTuple):
    """A run of this experiment, opened.

    params: of the whole model, adapters merged.
    base, adapters, lora: the parameters before, and what was merged; None where there was nothing.
    """

    config: ml_collections.ConfigDict
    task: Task
    model: nn.Module
    step: int
    params: Params
    tokenizer: tokenizers.Tokenizer
    base: Params
    adapters: Params | None
    lora: LoraConfig | None


def load(folder: pathlib.Path, *, sequence_parts: int = 1) -> FineTuned:
    """The best checkpoint of a run where its config names a metric, else the newest.

    Args:
      folder: of the run.
      sequence_parts: devices that its model will read each row with.

    Raises:
      UserError: not such a run, or what it was frozen on top of has changed since.
    """
    config = ml_collections.ConfigDict(workdir_lib.load_config(folder))
    config.model = runs.on_this_machine(config.model)
    config.parallel.sequence = sequence_parts
    tokenizer = tokenizers.load(folder / "tokenizer")
    inputs = labelled.text_inputs(config, tokenizer)
    task = tasks.make_task(config.task.to_dict(), inputs)
    model = make_model(config, task)
    policy = {name: config.checkpoint[name] for name in ("best_metric", "best_mode")}
    step, state_params, host = restore_params(folder / "checkpoints", **policy)
    frozen: Params = {}
    if host["frozen parameters"]:
        params, _ = task_params(config, task, model, None)
        trained = Trained(config, params)
        frozen = trained.split(params)[1]
        if checksum(frozen) != host["frozen parameters"]:
            raise UserError(
                f"{folder} was trained on top of init_from={config.init_from or config.seed}, "
                "which holds other parameters now; restore them"
            )
    else:
        shapes = jax.eval_shape(lambda key: task.init_params(model, key), jax.random.key(0))
        trained = Trained(config, shapes)
    return FineTuned(
        config=config,
        task=task,
        model=model,
        step=step,
        params=trained.assemble(state_params, frozen),
        tokenizer=tokenizer,
        base=trained.base(state_params, frozen),
        adapters=state_params.get("adapters"),
        lora=trained.lora,
    )
