"""Reads what the folder of a run, or of `transformers`, says: config, head, tokenizer."""

import pathlib
from typing import Any

from lm.chat import template_files
from lm.errors import UserError
from lm.interop import heads, hugging_face, peft
from lm.run import workdir as workdir_lib
from lm.system import folder_files, manifest
from lm.tokenizers import tokenizer_folder, tokenizers
from lm.tokenizers.pieces import KIND


def imported_config(block: dict[str, Any], source: str) -> dict[str, Any]:
    """Makes the config of a run whose model came from elsewhere."""
    return {"experiment": "convert", "source": source, "model": block}


def load_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads config.json of a run, and checks that it has the blocks that opening the run needs.

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
    blocks = {
        "convert": ["model"],
        "finetune": ["model", "task", "data", "lora", "train", "parallel", "checkpoint"],
    }
    for name in blocks.get(config["experiment"], ["model", "objective", "data", "checkpoint"]):
        if not isinstance(config.get(name), dict):
            raise UserError(f"{path} has no block {name!r}, as a run's has; restore the file")
    for name in ("name", "attention", "dtype"):
        if not isinstance(config["model"].get(name), str):
            raise UserError(
                f"{path}: model.{name}={config['model'].get(name)!r} is no name; restore the file"
            )
    return config


def num_old_tokens(init_from: str) -> int:
    """Returns how many tokens the model of this folder had before it was given more.

    Raises:
      UserError: `configs/extend.py` did not make it, nor is it a run that trained the new rows of
        what that made.
    """
    folder = pathlib.Path(init_from)
    is_run = init_from and not hugging_face.is_folder(folder)
    config = load_config(folder) if is_run else {}
    if config.get("train", {}).get("only") == "new_rows":
        return num_old_tokens(config["init_from"])
    if not isinstance(found := config.get("num_old_tokens"), int):
        raise UserError(
            f"train.only=new_rows: init_from={init_from} has no new rows; name the target of "
            "configs/extend.py, or leave train.only out"
        )
    return found


def head_of(folder: pathlib.Path) -> heads.Head | None:
    """Names the head of a fine-tuned run, or of a folder of `transformers`; None without one.

    Raises:
      UserError: it is neither a run nor such a folder.
    """
    if hugging_face.is_folder(folder):
        return heads.head_of(hugging_face.load_config(folder))
    config = load_config(folder)
    if config["experiment"] != "finetune" or config["task"]["kind"] not in heads.KINDS:
        return None  # Such as one that writes, whose output is that of the language model.
    return heads.Head(config["task"]["kind"], tuple(config["task"].get("labels", ())))


def on_this_machine(block: dict[str, Any]) -> dict[str, Any]:
    """Copies a `model` block that another machine may have used, with this machine's kernel."""
    # All kernels give the same numbers, so the fastest here takes the place of what is named; but
    # not of the reference, which may have been named for a reason.
    return block | {"attention": "einsum" if block["attention"] == "einsum" else "auto"}


def tokenizer_block(folder: pathlib.Path) -> dict[str, str]:
    """Makes the `tokenizer` block of a config that uses the tokenizer of this run or HF folder.

    Raises:
      UserError: a folder of `transformers` without a tokenizer.json, whose tokenizer has no file.
    """
    folder_files.has_folder(folder / "tokenizer")  # A link to nothing is not one of bytes.
    for name in ("tokenizer/sentencepiece.model", "tokenizer/tokenizer.json", "tokenizer.json"):
        if folder_files.has(folder / name):
            return {"kind": "file", "path": str(folder / name)}
    if tokenizer_folder.has_tokenizer(folder):
        return {"kind": "file", "path": str(folder)}
    if hugging_face.is_folder(folder):
        raise UserError(
            f"{folder} holds no tokenizer, such as tokenizer.json; save it there with "
            "AutoTokenizer of transformers"
        )
    return {"kind": "bytes"}


def save_tokenizer(tokenizer: tokenizers.Tokenizer, init_from: str, folder: pathlib.Path) -> None:
    """Saves a run's tokenizer, with the chat templates of the model that it trains further."""
    is_listed = (folder / manifest.NAME).exists()  # At the end of a first start.
    tokenizer.save(folder)
    if init_from and not is_listed:  # A later start keeps the templates of the first.
        template_files.copy(pathlib.Path(init_from), folder)


def has_tokenizer(workdir: pathlib.Path) -> bool:
    """Tells whether an earlier start of the run saved its tokenizer here, undamaged."""
    folder = workdir / "tokenizer"
    is_listed = (folder / manifest.NAME).exists()
    return (folder / KIND).is_file() and not (is_listed and manifest.problem(folder))
