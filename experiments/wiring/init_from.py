"""The state before the first step: random parameters, or those that `init_from` names."""

import pathlib
from collections.abc import Callable, Iterable
from typing import Any

import jax
import ml_collections
from absl import logging
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.wiring import pretraining
from lm.errors import UserError
from lm.interop import hugging_face
from lm.interop.weights import Path
from lm.loading import language_model, run_folder, task_model
from lm.models import mup
from lm.models.factory import family_named, make_model
from lm.models.families import family_of, init_params, param_shapes
from lm.models.parameters import Params
from lm.tokenizers import tokenizers
from lm.train.step import TrainState


def make_state(
    init_from: str, parts: pretraining.PretrainingParts, abstract: TrainState
) -> Callable[[int], TrainState]:
    """seed -> the state before the first step; what is compiled for it serves all seeds.

    Its parameters are random, or those of the folder `init_from`, where there is one.
    """
    shardings = pretraining.shardings_of(abstract)
    if not init_from:  # Each device draws its own shard of the parameters.
        init = jax.jit(parts.init, out_shardings=shardings)
        return lambda seed: init(jax.random.key(seed))
    folder = pathlib.Path(init_from)
    create = jax.jit(lambda params: TrainState.create(params, parts.tx), out_shardings=shardings)
    draw = jax.jit(lambda key: init_params(parts.model, key))

    def from_folder(seed):
        shapes = _shape_by_path(abstract.params)
        # Called only where the folder lacks a parameter, such as an output.
        drawn = lambda: flatten_dict(draw(jax.random.key(seed)))
        if hugging_face.is_folder(folder):
            choices = _choices(folder, parts.model)
            loaded = hugging_face.load_params(folder, shapes, initial=drawn, **choices)
            hugging_face.say_what_is_left(folder, loaded)
            _say_what_is_new(folder, loaded.missing)
            return create(loaded.params)
        if not task_model.is_task_model(folder):
            return create(language_model.load(folder).params)
        run = task_model.load(folder)
        found = task_model.as_in_module(run.params, family_named(run.config["model"]["name"]))
        missing = sorted(shapes.keys() - found.keys())  # Of the output, as `check` saw.
        if left := sorted({path[0] for path in found.keys() - shapes.keys()}):
            logging.warning("%s: left out, for it has no place here: %s", folder, ", ".join(left))
        _say_what_is_new(folder, missing)
        new = drawn() if missing else {}
        return create(unflatten_dict({path: found.get(path, new.get(path)) for path in shapes}))

    return from_folder


def _is_of_output(path: Path, model: nn.Module) -> bool:
    """Tells whether a parameter is outside of the body, so that a task model may lack it."""
    match family_of(model).architecture:
        case "encoder":
            return path[0] != "encoder"
        case "decoder":
            return path[0] == "output_embedding"
    return False


def _choices(folder: pathlib.Path, model: nn.Module) -> dict[str, Any]:
    """Says what a folder of `transformers` may lack, and that it may have heads of tasks."""
    is_body = run_folder.head_of(folder) is not None or hugging_face.is_bare_encoder(folder)
    may_lack = lambda path: is_body and _is_of_output(path, model)
    return {"may_lack": may_lack, "leave_out": "heads"}


def _say_what_is_new(folder: pathlib.Path, missing: Iterable[Path]) -> None:
    names = ", ".join("/".join(path) for path in missing)
    if names:
        logging.warning("%s has none, so that these are new: %s", folder, names)


def announce(init_from: str) -> None:
    """Prints where the parameters come from, since reading or making them may take a while."""
    print(f"reading parameters of {init_from}" if init_from else "making parameters", flush=True)


def own_tokenizer(
    tokenizer: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
    """Returns this `tokenizer` block, or that of the copy in `workdir` of a file that it names."""
    # So a run that goes on keeps its ids and special tokens, whatever became of the file.
    if tokenizer.kind == "file" and run_folder.has_tokenizer(workdir):
        return ml_collections.ConfigDict(run_folder.tokenizer_block(workdir))
    return tokenizer


def with_model(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy whose model and tokenizer are those of `init_from`, unless the config has its own.

    Raises:
      UserError: there is neither a model block nor a folder to take it from.
    """
    config = config.copy_and_resolve_references()
    if "name" in config.model:
        return config
    if not config.init_from:
        raise UserError(
            "init_from is not set, and the config has no model of its own; name the folder of a "
            "run or of transformers"
        )
    folder = pathlib.Path(config.init_from)
    block = model_block(folder)
    # What the config says of the model besides, such as its dtype, replaces what is said there.
    for name, value in config.model.items():
        if name not in block and value:  # Such as a dropout for Llama, which has none.
            logging.warning("model.%s=%s is not used: %s has none", name, value, block["name"])
    block |= {name: value for name, value in config.model.items() if name in block}
    with config.unlocked():
        config.model = ml_collections.ConfigDict(block)
        config.tokenizer = ml_collections.ConfigDict(run_folder.tokenizer_block(folder))
    return config


def model_block(folder: pathlib.Path) -> dict[str, Any]:
    """The `model` block of the folder of a run, or of `transformers`.

    Raises:
      UserError: it is neither, or one of `transformers` without a tokenizer.
    """
    if not hugging_face.is_folder(folder):
        return run_folder.load_config(folder)["model"]
    run_folder.tokenizer_block(folder)  # Raises where there is none.
    return hugging_face.load_model_block(folder)


def check(
    init_from: str, model: nn.Module, params: Params, tokenizer: tokenizers.Tokenizer | None
) -> None:
    """Compares `init_from` with the parameters and the tokenizer that a config asks for.

    Of parameters, shapes are enough; a tokenizer that is None is not compared.

    Raises:
      UserError: `init_from` is neither, or its parameters or its tokenizer are others.
    """
    folder = pathlib.Path(init_from)
    is_run = not hugging_face.is_folder(folder)
    other = make_model(run_folder.on_this_machine(model_block(folder)), causal=True)
    # Read in any case, so that a folder without one is refused.
    theirs = tokenizers.load(folder / "tokenizer") if is_run else tokenizers.load_file(folder)
    # They are no parameters, so that no shape would show the difference.
    if _multipliers(other.config) != _multipliers(model.config):
        raise UserError(
            f"init_from={folder} and this config's model have other multipliers of muP; give "
            "model.mup_* the sizes that they have there, all 0 for a model that has none"
        )
    found, wanted = _shape_by_path(param_shapes(other)), _shape_by_path(params)
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            raise UserError(
                f"init_from={folder}: {'/'.join(path)} has shape {found.get(path)} there and "
                f"{wanted.get(path)} in this config's model; make the model block the same"
            )
    if not is_run:
        hugging_face.plan(folder, found, **_choices(folder, model))
    elif task_model.is_task_model(folder):
        there = task_model.as_in_module(*task_model.shapes(folder))
        missing = sorted(wanted.keys() - there.keys())
        if lacking := [path for path in missing if not _is_of_output(path, model)]:
            raise UserError(
                f"init_from={folder} was fine-tuned without {'/'.join(lacking[0])}, which this "
                "config's model needs; name what it was fine-tuned from"
            )
    if tokenizer is not None and theirs.fingerprint != tokenizer.fingerprint:
        block = run_folder.tokenizer_block(folder)
        raise UserError(
            f"init_from={folder} knows another tokenizer's ids; take that one: "
            f"--config=FILE.py:tokenizer={block.get('path', block['kind'])}"
        )


def _multipliers(model_config: Any) -> tuple:
    return mup.output_multiplier(model_config), mup.attention_scale(model_config)


def _shape_by_path(tree: Params) -> dict[tuple[str, ...], tuple[int, ...]]:
    return {path: x.shape for path, x in flatten_dict(tree).items()}
