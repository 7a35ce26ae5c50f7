"""The state before the first step: random parameters, or those that `init_from` names."""

import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments import build, runs
from experiments.shown import command
from lm import workdir as workdir_lib
from lm.data import tokenizers
from lm.errors import UserError
from lm.interop import hugging_face
from lm.models.families import param_shapes
from lm.tasks.task import Task
from lm.train.state import Params, TrainState


def state(
    parts: build.Parts, config: ml_collections.ConfigDict, abstract: TrainState
) -> TrainState:
    """Random parameters, each device making its own part; or those of `init_from`."""
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    if not config.init_from:
        key = jax.random.key(config.seed)
        return jax.jit(build.make_init(parts), out_shardings=shardings)(key)
    folder = pathlib.Path(config.init_from)
    if hugging_face.is_folder(folder):
        params = hugging_face.load_params(folder, _shape_by_path(abstract.params)).params
    else:
        params = runs.load(folder).params
    create = lambda params: TrainState.create(params, parts.tx)
    return jax.jit(create, out_shardings=shardings)(params)


def task_params(
    config: ml_collections.ConfigDict, task: Task, model: nn.Module
) -> tuple[Params, list[str]]:
    """Parameters of a task model: of `init_from` as far as it has them, else random.

    Args:
      config: with its model block complete.
      task: makes random parameters.
      model: what `task` made.

    Returns:
      The parameters, and lines that say what was new and what was left out.

    Raises:
      UserError: `init_from` lacks what the model's body needs, or has it in another shape.
    """
    params = jax.jit(lambda key: task.init_params(model, key))(jax.random.key(config.seed))
    if not config.init_from:
        return params, []
    folder = pathlib.Path(config.init_from)
    source = _all_params(folder, config)
    family = build.family_block(config.model)
    if isinstance(model, family.module):
        wanted = {path: path for path in flatten_dict(params)}
    else:
        at = family.body_path
        wanted = {("body", *p): (*at, *p) for p in flatten_dict(params["body"])}
        wanted |= {("pool", *p): p for p in flatten_dict(params.get("pool", {}))}
    flat, new = flatten_dict(params), []
    for path in flat:
        theirs = source.get(wanted.get(path))
        if theirs is None and path[0] == "body":
            raise UserError(f"init_from={folder} lacks {'/'.join(wanted[path])}")
        if theirs is None:
            new.append("/".join(path))
            continue
        if theirs.shape != flat[path].shape:
            raise UserError(
                f"init_from={folder}: {'/'.join(wanted[path])} has shape {theirs.shape} there and "
                f"{flat[path].shape} in this config's model"
            )
        flat[path] = theirs
    unused = sorted("/".join(path) for path in source.keys() - set(wanted.values()))
    lines = [f"new: {', '.join(new) or 'nothing'}", f"left out: {', '.join(unused) or 'nothing'}"]
    return unflatten_dict(flat), lines


def _all_params(
    folder: pathlib.Path, config: ml_collections.ConfigDict
) -> dict[tuple[str, ...], Any]:
    """By path, as the family's module with its output has them; whatever the folder lacks, too."""
    if not hugging_face.is_folder(folder):
        return flatten_dict(runs.load(folder).params)
    model = build.make_model(config.model, causal=True)
    shapes = _shape_by_path(param_shapes(model))
    # What is missing is filled with zeros, and not returned.
    zeros = lambda: {path: np.zeros(shape, np.float32) for path, shape in shapes.items()}
    loaded = hugging_face.load_params(folder, shapes, initial=zeros, allow_unknown=True)
    missing = set(loaded.missing)
    return {p: x for p, x in flatten_dict(loaded.params).items() if p not in missing}


def model_block(folder: pathlib.Path) -> dict[str, Any]:
    """The `model` block of the folder of a run, or of `transformers`.

    Raises:
      UserError: it is neither, or one of `transformers` without a tokenizer.json.
    """
    if not hugging_face.is_folder(folder):
        return workdir_lib.load_config(folder)["model"]
    if not (folder / "tokenizer.json").exists():
        convert = ("--config=configs/convert.py", f"--config.source={folder}")
        raise UserError(
            f"init_from={folder} holds no tokenizer.json; make a run of it and name that: "
            f"{command(*convert, '--config.target=DIR')}"
        )
    return hugging_face.load_model_block(folder)


def check(
    config: ml_collections.ConfigDict, params: Params, tokenizer: tokenizers.Tokenizer
) -> None:
    """Compares `init_from` with the parameters and the tokenizer that this config asks for.

    Args:
      config: its `init_from` is the folder of a run, or of `transformers`.
      params: shapes are enough.
      tokenizer: of this config's data.

    Raises:
      UserError: `init_from` is neither, or its parameters or its tokenizer are others.
    """
    folder = pathlib.Path(config.init_from)
    other = build.make_model(ml_collections.ConfigDict(model_block(folder)), causal=True)
    if hugging_face.is_folder(folder):
        other_tokenizer = tokenizers.load_file(folder / "tokenizer.json")
    else:
        other_tokenizer = tokenizers.load(folder / "tokenizer")
    found, wanted = _shape_by_path(param_shapes(other)), _shape_by_path(params)
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise UserError(
                f"init_from={folder}: {'/'.join(path)} has shape {found.get(path)} there and "
                f"{wanted.get(path)} in this config's model; make the model block the same"
            )
    if other_tokenizer.fingerprint != tokenizer.fingerprint:
        block = runs.tokenizer_block(folder)
        raise UserError(
            f"init_from={folder} knows another tokenizer's ids; take that one: "
            f"--config=FILE.py:tokenizer={block.get('path', block['kind'])}"
        )


def _shape_by_path(tree: Params) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: x.shape for path, x in flatten_dict(tree).items()}
