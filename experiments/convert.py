"""Moves weights, hyperparameters and tokenizers between runs and `transformers`, or `peft`."""

import contextlib
import dataclasses
import functools
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import ml_collections
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from experiments.cli import command
from lm.chat import template_files
from lm.errors import UserError
from lm.inference import model_card, stablehlo_export
from lm.inference.export import export, model_config
from lm.interop import gguf_files, hugging_face, peft
from lm.loading import language_model, task_model
from lm.loading import run as run_lib
from lm.loading.run_folder import load_config
from lm.models import lora, mup
from lm.models.factory import family_named, make_model
from lm.models.families import init_params, param_shapes
from lm.models.parameters import Params
from lm.run import lock
from lm.run import workdir as workdir_lib
from lm.settings import choose
from lm.system import atomic_files, faults, manifest
from lm.tokenizers import stop_ids, tokenizers
from lm.train.checkpoints import Checkpoints, write_numpy_as_it_is
from lm.train.step import TrainState

FORMATS = ("transformers", "gguf", "stablehlo")


def run(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> int:
    """Converts `source` to `target`, whichever way `source` and `format` tell."""
    del workdir  # It is not used.
    choose("format", config.format, FORMATS)
    source, target = folders(config.source, config.target)
    with unfinished(target) as partial, faults.naming(target):
        made = ""  # By an export; an import makes a run.
        allowed = dict(allow_missing=config.allow_missing, allow_unknown=config.allow_unknown)
        others = dict(base=config.base, vocab_size=config.vocab_size, **allowed)
        gguf = dict(gguf_type=config.gguf_type)
        programs = {name: config[name] for name in ("prompt_lens", "cache_len", "dtype")}
        adapters = dict(adapters=config.adapters)
        stated = model_card.Stated(config.licence, config.languages)
        card = dataclasses.asdict(stated)
        if peft.is_folder(source):
            other = config.format if config.format != "transformers" else ""
            unused = adapters | gguf | programs | card
            _refuse(f"source={source}, adapters", format=other, vocab_size=config.vocab_size)
            _refuse(f"source={source}, adapters", **unused)
            merge_adapters(source, partial, base=config.base, **allowed)
        elif config.format == "gguf":
            _refuse("format=gguf", **adapters, **programs, **others)
            made = write_gguf(source, partial, config.gguf_type or "F16", stated)
        elif config.format == "stablehlo":
            _refuse("format=stablehlo", **adapters, **gguf, **others)
            made = write_programs(source, partial, stated, **programs)
        elif hugging_face.is_folder(source):
            unused = dict(base=config.base) | adapters | gguf | programs | card
            _refuse(f"source={source}, of transformers", **unused)
            import_folder(source, partial, vocab_size=config.vocab_size, **allowed)
        elif (source / "config.json").exists():
            _refuse(f"source={source}, a run", **gguf, **programs, **others)
            if config.adapters:
                made = f"adapters of step {export_adapters(source, partial, stated)}"
            else:
                exported = run_lib.read(source)
                export(exported, partial, stated=stated)
                kind = hugging_face.load_config(partial)["architectures"][0]
                made = f"{kind} of step {exported.step}"
        else:
            raise UserError(
                f"source={source} is neither a run, nor a folder of transformers or of peft"
            )
        if not made:
            manifest.write(partial / "tokenizer")
    print(f"{source} -> {target}: {made or 'a run at step 0'}")
    if made:
        print(f"read {target / model_card.FILE} before you publish it: it has paths and commands")
    else:
        print(_what_to_do(target))
    return 0


def write_gguf(
    source: pathlib.Path, target: pathlib.Path, kind: str, stated: model_card.Stated
) -> str:
    """Writes a folder whose weights are a GGUF; says what they are."""
    choose("gguf_type", kind, gguf_files.TYPES)
    exported = run_lib.read(source)
    export(exported, target, gguf_type=kind, stated=stated)
    return f"a GGUF ({kind}) of step {exported.step}"


def write_programs(
    source: pathlib.Path,
    target: pathlib.Path,
    stated: model_card.Stated,
    *,
    prompt_lens: tuple[int, ...],
    cache_len: int,
    dtype: str,
) -> str:
    """Writes a folder of programs of StableHLO; says what they are."""
    exported = run_lib.read(source)
    stablehlo_export.export(
        exported,
        target,
        prompt_lens=prompt_lens,
        cache_len=cache_len or model_config(exported.model).max_len,
        dtype=dtype or "float32",
        stated=stated,
    )
    return f"programs for {', '.join(stablehlo_export.PLATFORMS)} of step {exported.step}"


def folders(source: str, target: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Returns both; raises UserError unless the target is a new folder outside of the source."""
    if not source or not target:
        raise UserError("name both folders: --config.source=DIR --config.target=DIR")
    old, new = pathlib.Path(source), pathlib.Path(target)
    if new.exists() and (not new.is_dir() or any(new.iterdir())):
        raise UserError(f"target={target} exists already; name a new folder")
    if new.resolve().is_relative_to(old.resolve()):
        raise UserError(f"target={target} is inside source={source}; name a folder elsewhere")
    return old, new


def _refuse(source: str, **settings: Any) -> None:
    for key, value in settings.items():
        if value:
            raise UserError(f"{key}={value} means nothing to {source}; leave it out")


def _what_to_do(run: pathlib.Path) -> str:
    """The command that shows what an imported run can do."""
    config = load_config(run)
    checkpoint = f"--config.checkpoint={run}"
    if config["experiment"] == "finetune":
        parts = ("--config=configs/predict.py", checkpoint, "--config.input=FILE")
        return f"give it new text: {command(*parts)}"
    family = family_named(config["model"]["name"])
    if family.architecture == "encoder":
        parts = ("--config=configs/classify.py", f"--config.init_from={run}")
        return f"train it for a task: {command(*parts, '--config.data.train=FILE')}"
    parts = ("--config=configs/generate.py", checkpoint, "--config.prompt=def ")
    return f"sample from it: {command(*parts)}"


@contextlib.contextmanager
def unfinished(target: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder to make, which becomes `target` after the block; a failure leaves nothing."""
    # On the same disk, for a folder is renamed in one step there alone.
    folder = workdir_lib.existing_part(target.parent) / f".{target.name}.unfinished"
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"target={target} cannot be made ({error}); name another folder") from None
    partial = folder / "partial"
    try:
        with lock.held(folder, name=f"target={target}"):
            # What a killed process has left.
            shutil.rmtree(partial, ignore_errors=True)
            try:
                yield partial
                target.parent.mkdir(parents=True, exist_ok=True)
                atomic_files.rename_folder(partial, target)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # Also of the lock, whose file may have no room; who has it raises a UserError.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def import_folder(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    vocab_size: int,
    allow_missing: bool,
    allow_unknown: bool,
) -> None:
    """Makes a folder of `transformers` a run at step 0, to be sampled, evaluated or trained on.

    Raises UserError as `lm.interop.hugging_face` does, and for a vocabulary that is too small.
    """
    # Where weights may be left out, the head of a task is among them.
    if task_model.is_task_model(source) and not (allow_unknown or allow_missing):
        model = _read_task_model(source)
    else:
        model = read_folder(source, allow_missing, allow_unknown)
    params, block = model.params, model.block
    if vocab_size:
        params = hugging_face.resize_vocabulary(params, block["vocab_size"], vocab_size)
        block["vocab_size"] = vocab_size
    if model.tokenizer.vocab_size > block["vocab_size"]:
        raise UserError(
            f"{source}: the tokenizer has {model.tokenizer.vocab_size} tokens and the model only "
            f"{block['vocab_size']}; give it more with --config.vocab_size="
            f"{model.tokenizer.vocab_size}"
        )
    write_run(target, model._replace(params=params), source=str(source))
    template_files.copy(source, target / "tokenizer")


def merge_adapters(
    source: pathlib.Path,
    target: pathlib.Path,
    *,
    base: str,
    allow_missing: bool,
    allow_unknown: bool,
) -> None:
    """Merges a folder of `peft` and the model that it adapts into a run at step 0.

    Raises UserError as `lm.interop.peft` does, and where `base` is not set.
    """
    if not base:
        raise UserError(
            f"source={source} holds adapters; name the run, or the folder of transformers, that "
            "they belong to: --config.base=DIR"
        )
    folder = pathlib.Path(base)
    if hugging_face.is_folder(folder):
        model = read_folder(folder, allow_missing, allow_unknown)
    else:
        run = language_model.load(folder)
        _check_scores(folder, run.model)
        params = jax.tree.map(np.asarray, run.params)
        model = Model(run.config["model"], params, "float32", run.tokenizer)
    shapes = {path: x.shape for path, x in flatten_dict(model.params).items()}
    settings, adapters = peft.load_adapters(source, model.block, shapes)
    # Merged in float32: rounded to a half type, small updates would vanish beside the kernel.
    merged = jax.jit(functools.partial(lora.merge, config=settings))(model.params, adapters)
    model = model._replace(params=jax.tree.map(np.asarray, merged), dtype="float32")
    write_run(target, model, source=str(source), base=str(folder))
    template_files.copy(folder, target / "tokenizer")


class Model(NamedTuple):
    """The model of a run, with what else its folder needs."""

    block: dict[str, Any]  # The `model` block of its config.
    params: Params
    dtype: str  # Of the files that the parameters came from.
    tokenizer: tokenizers.Tokenizer
    task: dict[str, Any] | None = None  # With the head of a task, the other blocks of its config.


def _read_task_model(source: pathlib.Path) -> Model:
    run, loaded = task_model.read_folder(source)
    _say(source, loaded, run.tokenizer)
    labels = ", ".join(task_model.labels_of(run.config)) or "no labels"
    print(
        f"with its head: {run.config['task']['kind']} of {labels}; without it: "
        "--config.allow_unknown=True --config.allow_missing=True"
    )
    block = run.config["model"]
    return Model(block, run.params, loaded.dtype, run.tokenizer, run.config)


def _say(
    source: pathlib.Path, loaded: hugging_face.Loaded, tokenizer: tokenizers.Tokenizer
) -> None:
    """Prints what the folder lacks, and what of it was left out."""
    for path in loaded.missing:
        print(f"missing, and drawn at random: {'/'.join(path)}")
    for key in loaded.left_out:
        print(f"unknown, and left out: {key}")
    for note in loaded.notes:
        print(note)
    if line := stop_ids.unused_settings(source, tokenizer.vocab_size):
        print(line)


def read_folder(source: pathlib.Path, allow_missing: bool, allow_unknown: bool) -> Model:
    """Reads a folder of `transformers`, without a task's head; see `import_folder`."""
    block, is_bare = hugging_face.load_model_block(source), hugging_face.is_bare_encoder(source)
    model = make_model(block, causal=True)
    shapes = flatten_dict(param_shapes(model))
    init = lambda: flatten_dict(jax.jit(lambda: init_params(model, jax.random.key(0)))())
    loaded = hugging_face.load_params(
        source,
        {path: x.shape for path, x in shapes.items()},
        initial=init,
        may_lack=lambda path: allow_missing or (is_bare and path[0] != "encoder"),
        leave_out="anything" if allow_unknown else "nothing",
    )
    tokenizer = tokenizers.load_file(source)
    _say(source, loaded, tokenizer)
    return Model(block, loaded.params, loaded.dtype, tokenizer)


def write_run(target: pathlib.Path, model: Model, **source: Any) -> None:
    """Writes a run at step 0, whose config says besides where it comes from."""
    made_by = model.task or {"experiment": "convert"}
    made_by = made_by | source | {"weights_dtype": model.dtype, "model": model.block}
    # As fine-tuning keeps what is trained; see `Trainable`.
    params = {"params": model.params} if model.task else model.params
    host = {"num_tokens": 0, "frozen parameters": ""} if model.task else {"num_tokens": 0}
    write_numpy_as_it_is()  # A copy of a large model may not fit into memory.
    with (
        workdir_lib.opened(target, made_by, data_hash=""),
        Checkpoints(target / "checkpoints", keep_last=1) as checkpoints,
    ):
        model.tokenizer.save(target / "tokenizer")
        checkpoints.save(0, TrainState(np.int32(0), params, ()), host, {})


def export_adapters(source: pathlib.Path, target: pathlib.Path, stated: model_card.Stated) -> int:
    """The adapters of a fine-tuned run, without its head -> a folder of `peft`; returns their step.

    Raises:
      UserError: the run has none, or adapts what `transformers` has no name for.
    """
    if load_config(source)["experiment"] != "finetune":
        raise UserError(f"adapters=True: source={source} is no fine-tuned run")
    run = task_model.load(source)
    if run.adapters is None:
        raise UserError(f"adapters=True: source={source} has no adapters; it was trained without")
    _check_scores(source, run.model)
    target.mkdir(parents=True)
    family = family_named(run.config["model"]["name"])
    by_module = lambda tree: unflatten_dict(task_model.as_in_module(tree, family))
    peft.save_adapters(
        target,
        run.config["model"],
        run.lora,
        jax.tree.map(np.asarray, by_module(run.adapters)),
        jax.tree.map(np.asarray, by_module(run.base)),
        base_model=run.config["init_from"] or None,
    )
    use = 'import peft\n\nmodel = peft.PeftModel.from_pretrained(BASE, "FOLDER")'
    model_card.write(run, target, stated, library="peft", use=use)
    if "head" in run.base:
        print("left out: the head, which is not in a folder of peft")
    return run.step


def _check_scores(folder: pathlib.Path, model: nn.Module) -> None:
    # On export queries take up the scale of attention, and adapters of queries cannot.
    if mup.attention_scale(model_config(model)) is not None:
        raise UserError(
            f"{folder}: its heads are wider than its base shape's, model.mup_head_dim, and peft "
            "has no such scale of attention; convert the run without adapters=True"
        )
