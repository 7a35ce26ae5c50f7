"""Opens a finished (or running) run, or a folder of `transformers` as if it were one."""

import pathlib
from typing import Any, NamedTuple

import ml_collections
from flax import linen as nn
from flax.traverse_util import flatten_dict

from lm.chat import template_files
from lm.errors import UserError
from lm.interop import heads, hugging_face, peft
from lm.models.factory import make_model
from lm.models.families import param_shapes
from lm.models.parameters import Params
from lm.run import workdir as workdir_lib
from lm.system import manifest
from lm.tokenizers import tokenizer_folder, tokenizers
from lm.tokenizers.pieces import KIND
from lm.train.checkpoints import restore_params


class SavedRun(NamedTuple):
    """What a workdir holds; of a folder of `transformers`, what it would be imported as."""

    config: ml_collections.ConfigDict
    model: nn.Module
    step: int
    params: Any
    tokenizer: tokenizers.Tokenizer


def folder_of(config: ml_collections.ConfigDict) -> pathlib.Path:
    """The folder that `checkpoint` names.

    Raises:
      UserError: it is not set.
    """
    if not config.checkpoint:
        raise UserError("checkpoint is not set; give a run's folder: --config.checkpoint=runs/NAME")
    return pathlib.Path(config.checkpoint)


def load(folder: pathlib.Path, *, sequence_parts: int = 1) -> SavedRun:
    """A run's best checkpoint where its config names a metric, else the newest; averaged weights
    where it keeps them.

    Args:
      folder: of the run, or of `transformers`, whose model is then at step 0.
      sequence_parts: devices that its model will read each row with.

    Raises:
      UserError: neither, a run without a checkpoint, or a config.json that the parameters do not
        fit.
    """
    is_imported = hugging_face.is_folder(folder)
    if is_imported:
        block = hugging_face.load_model_block(folder)
        config = ml_collections.ConfigDict(imported_config(block, str(folder)))
    else:
        config = ml_collections.ConfigDict(load_config(folder))
    causal = "objective" not in config or config.objective.kind == "causal"
    block = on_this_machine(config.model)
    model = make_model(block, causal=causal, sequence_parts=sequence_parts)
    if is_imported:
        shapes = {path: x.shape for path, x in flatten_dict(param_shapes(model)).items()}
        loaded = hugging_face.load_params(folder, shapes, leave_out="heads")
        hugging_face.say_what_is_left(folder, loaded)
        return SavedRun(config, model, 0, loaded.params, tokenizers.load_file(folder))
    step, params, _ = restore_params(folder / "checkpoints", **_best(config))
    check_shapes(folder, params, param_shapes(model))
    return SavedRun(config, model, step, params, tokenizers.load(folder / "tokenizer"))


def imported_config(block: dict[str, Any], source: str) -> dict[str, Any]:
    """The config of a run whose model came from elsewhere."""
    return {"experiment": "convert", "source": source, "model": block}


def load_config(folder: pathlib.Path) -> dict[str, Any]:
    """config.json of a run, with the blocks that reading it needs.

    Raises:
      UserError: this is no run's folder, or a part of its config is missing or no block.
    """
    if not folder.exists():
        raise UserError(
            f"{folder} does not exist; name the folder of a run, or of transformers. A model of "
            f"the Hub is fetched first: hf download {folder} --local-dir DIR"
        )
    if peft.is_folder(folder) and not (folder / workdir_lib.CONFIG).exists():
        raise UserError(
            f"{folder} holds adapters of peft; merge them into their model first: "
            f"--config=configs/convert.py --config.source={folder} --config.base=DIR"
        )
    config, path = workdir_lib.load_config(folder), folder / workdir_lib.CONFIG
    if not isinstance(config.get("experiment"), str):
        raise UserError(
            f"{path} has neither an experiment, as a run's has, nor a model_type, as that of a "
            "folder of transformers; restore the file"
        )
    blocks = ["model"]
    if config["experiment"] == "finetune":
        blocks += ["task", "data", "lora", "train", "parallel", "checkpoint"]
    elif config["experiment"] != "convert":
        blocks += ["objective", "data", "checkpoint"]
    for name in blocks:
        if not isinstance(config.get(name), dict):
            raise UserError(f"{path} has no block {name!r}, as a run's has; restore the file")
    for name in ("name", "attention", "dtype"):
        if not isinstance(config["model"].get(name), str):
            raise UserError(
                f"{path}: model.{name}={config['model'].get(name)!r} is no name; restore the file"
            )
    return config


def head_of(folder: pathlib.Path) -> heads.Head | None:
    """The head of a fine-tuned run, or of a folder of `transformers`; None where there is none.

    Raises:
      UserError: it is neither a run nor such a folder.
    """
    if hugging_face.is_folder(folder):
        return heads.head_of(hugging_face.load_config(folder))
    config = load_config(folder)
    if config["experiment"] != "finetune" or config["task"]["kind"] not in heads.KINDS:
        return None
    return heads.Head(config["task"]["kind"], tuple(config["task"].get("labels", ())))


def check_shapes(folder: pathlib.Path, params: Params, expected: Params) -> None:
    """Raises UserError where a checkpoint does not hold the parameters that config.json asks for.

    Args:
      folder: of the run.
      params: what was restored.
      expected: of the model; shapes are enough.
    """
    found, wanted = flatten_dict(params), flatten_dict(expected)
    for path in sorted(found.keys() | wanted.keys()):
        shapes = [tree[path].shape if path in tree else None for tree in (found, wanted)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"{folder}: {'/'.join(path)} has shape {shapes[0]} in its checkpoint, and "
                f"{workdir_lib.CONFIG} asks for {shapes[1]}; restore the {workdir_lib.CONFIG} that "
                "made it"
            )


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
    """The `tokenizer` block of a config that uses the tokenizer of this run or HF folder.

    Raises:
      UserError: a folder of `transformers` without a tokenizer.json, whose tokenizer has no file.
    """
    for name in ("tokenizer/sentencepiece.model", "tokenizer/tokenizer.json", "tokenizer.json"):
        path = folder / name
        if path.exists():
            return {"kind": "file", "path": str(path)}
    if tokenizer_folder.has_tokenizer(folder):
        return {"kind": "file", "path": str(folder)}
    if hugging_face.is_folder(folder):
        raise UserError(
            f"{folder} holds no tokenizer, such as tokenizer.json; save it there with "
            "AutoTokenizer of transformers"
        )
    return {"kind": "bytes"}


def with_own_tokenizer(
    config: ml_collections.ConfigDict, workdir: pathlib.Path
) -> ml_collections.ConfigDict:
    """A copy that reads the tokenizer's copy in the workdir, where a run goes on that read a file.

    So a run keeps its ids and special tokens, whatever becomes of the file or of how it is read.
    """
    config = config.copy_and_resolve_references()
    if config.tokenizer.kind == "file" and has_tokenizer(workdir):
        config.tokenizer = ml_collections.ConfigDict(tokenizer_block(workdir))
    return config


def save_tokenizer(tokenizer: tokenizers.Tokenizer, init_from: str, folder: pathlib.Path) -> None:
    """Saves a run's tokenizer, with the chat templates of the model that it trains further, if any.

    These are taken until a first start has listed the folder's files; a later start keeps them.
    """
    is_listed = (folder / manifest.NAME).exists()
    tokenizer.save(folder)
    if init_from and not is_listed:
        template_files.copy(pathlib.Path(init_from), folder)


def has_tokenizer(workdir: pathlib.Path) -> bool:
    """Whether a run was started here before, so that its tokenizer is, and is not damaged."""
    folder = workdir / "tokenizer"
    is_listed = (folder / manifest.NAME).exists()
    return (folder / KIND).is_file() and not (is_listed and manifest.problem(folder))
