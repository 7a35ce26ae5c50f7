"""Makes task models, fills them with another model's parameters, and opens them after training.

A folder of `transformers` with the head of a task is opened as a run that was trained for it.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh

from lm.data.tags import scheme_of, spelled
from lm.errors import UserError
from lm.interop import heads, hugging_face
from lm.interop.weights import shapes_by_path
from lm.loading import language_model
from lm.loading import run_folder as run_folder_lib
from lm.loading.run_folder import head_of, load_config, on_this_machine
from lm.models import factory as factory_lib
from lm.models import mup
from lm.models.factory import family_named
from lm.models.families import Family
from lm.models.lora import LoraConfig
from lm.models.parameters import Params
from lm.parallel.param_rules import params_sharding, place_params
from lm.tasks.factory import make_task, text_inputs
from lm.tasks.task import Task
from lm.tokenizers import tokenizers
from lm.train.checkpoints import restore_params
from lm.train.trainable import Trainable, checksum

Config = Mapping[str, Any]  # Blocks by name, as config.json of a run has them.


def make_model(config: Config, task: Task) -> nn.Module:
    """Makes the task's model on the family that the config names."""
    base = factory_lib.make_model(
        config["model"],
        causal=True,
        packed=bool(task.layout.joined),
        sequence_parts=config["parallel"]["sequence"],
    )
    if mup.growth(base.config) and not config["init_from"]:
        raise UserError(
            f"model.mup_model_dim={base.config.mup_model_dim} is about pretraining; make it and "
            "the other model.mup_* 0, or name a run that has them with init_from"
        )
    return task.objective.module(family_named(config["model"]["name"]), base.config)


def task_params(
    config: Config, task: Task, model: nn.Module, mesh: Mesh | None
) -> tuple[Params, list[str]]:
    """Makes a task model's parameters: those of `init_from` as far as it has them, else random.

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
    draw, key = lambda key: task.objective.init_params(model, key), jax.random.key(config["seed"])
    shapes = jax.eval_shape(draw, key)
    shardings = None if mesh is None else params_sharding(shapes, mesh)
    if not config["init_from"]:
        return jax.jit(draw, out_shardings=shardings)(key), []
    by_path = shapes_by_path(shapes)
    source = _source(pathlib.Path(config["init_from"]), config, model, by_path)
    found, new = {}, []
    for path, shape in by_path.items():
        if path in source.params:
            found[path] = np.asarray(source.params[path])  # On no device yet.
            if found[path].shape != shape:
                raise UserError(
                    f"init_from={config['init_from']}: {'/'.join(path)} has shape "
                    f"{found[path].shape} there and {shape} in this config's model"
                )
        elif path[0] == "body":
            raise UserError(f"init_from={config['init_from']} lacks {'/'.join(path[1:])}")
        else:
            new.append(path)
    # The whole draw is traced; XLA drops what of it is not new.
    of_new = lambda tree: tree and {path: flatten_dict(tree)[path] for path in new}
    drawn = jax.jit(lambda key: of_new(draw(key)), out_shardings=of_new(shardings))(key)
    params = unflatten_dict(found)
    if mesh is not None:
        params = place_params(params, mesh)
    listed = lambda names: ", ".join(names) or "nothing"
    lines = [f"new: {listed(map('/'.join, new))}", f"left out: {listed(source.left_out)}"]
    return unflatten_dict(flatten_dict(params) | drawn), [*source.lines, *lines]


class _Source(NamedTuple):
    """Holds what `init_from` has for a task model."""

    params: dict[tuple[str, ...], Any]  # By the paths of the task model.
    left_out: list[str]  # Names of what it has besides, each once.
    lines: list[str]  # About its head.


def _source(
    folder: pathlib.Path,
    config: Config,
    model: nn.Module,
    by_path: dict[tuple[str, ...], tuple[int, ...]],
) -> _Source:
    family = family_named(config["model"]["name"])
    is_language_model = isinstance(model, family.module)
    theirs, ours = head_of(folder), heads.Head(config["task"]["kind"], labels_of(config))
    names = lambda head: spelled(head.labels, config["task"].get("scheme"))
    is_alike = theirs and (theirs.kind, names(theirs)) == (ours.kind, names(ours))
    takes_head = bool(is_alike) and not is_language_model
    lines = []
    if theirs:
        what = lambda head: f"{head.kind} of {', '.join(head.labels) or 'no labels'}"
        same = f"that of {folder}, {what(theirs)}"
        lines = [f"head: {same if takes_head else f'new; {same}, does not fit {what(ours)}'}"]
    if hugging_face.is_folder(folder):
        hf_family = None
        if not is_language_model:
            hf_family = heads.body_family(dict(config["model"]), *ours, has_head=takes_head)
        loaded = hugging_face.load_params(
            folder,
            by_path,
            family=hf_family,
            may_lack=lambda path: path[0] in ("pool", "head", "crf", "output_embedding"),
            leave_out="heads",
        )
        lines += [f"weights: {note}" for note in loaded.notes]
        return _Source(flatten_dict(loaded.params), [*dict.fromkeys(loaded.left_out)], lines)
    if is_task_model(folder):
        source = as_in_module(load(folder).params, family)
    else:
        source = flatten_dict(language_model.load(folder).params)
    places = {path: path for path in by_path if is_language_model or takes_head}
    if not is_language_model:
        places |= {p: (*family.body_path, *p[1:]) for p in by_path if p[0] == "body"}
        places |= {p: p[1:] for p in by_path if p[0] == "pool"}
    params = {path: source[place] for path, place in places.items() if place in source}
    left_out = sorted("/".join(path) for path in source.keys() - set(places.values()))
    return _Source(params, left_out, lines)


def as_in_module(params: Params, family: Family) -> dict[tuple[str, ...], Any]:
    """Renames a task model's parameters to the paths that the family's own module has for them."""
    starts = {"body": family.body_path, "pool": ()}  # A pooler stands beside the body there.
    return {
        (*starts.get(path[0], path[:1]), *path[1:]): x for path, x in flatten_dict(params).items()
    }


def is_task_model(folder: pathlib.Path) -> bool:
    """Tells whether `load` opens this, rather than `language_model.load`.

    Raises:
      UserError: it is neither a run nor a folder of `transformers`.
    """
    if hugging_face.is_folder(folder):
        return heads.head_of(hugging_face.load_config(folder)) is not None
    return load_config(folder)["experiment"] == "finetune"


class SavedTaskModel(NamedTuple):
    """Holds a run of fine-tuning, or a folder of `transformers` with a head as such a run."""

    folder: pathlib.Path
    config: dict[str, Any]  # As the run wrote it, for this machine and with settings of `load`.
    task: Task
    model: nn.Module
    step: int
    params: Params  # Of the whole model, adapters merged.
    tokenizer: tokenizers.Tokenizer
    base: Params  # The parameters before that.
    adapters: Params | None  # What was merged; None where there was nothing.
    lora: LoraConfig | None


def load(
    folder: pathlib.Path,
    *,
    sequence_parts: int = 1,
    task: dict[str, Any] | None = None,
    truncate: bool = False,
) -> SavedTaskModel:
    """Opens the best checkpoint of a run where its config names a metric, else the newest.

    Args:
      folder: of the run; or of `transformers` with a head, which is then at step 0.
      sequence_parts: devices that its model will read each row with.
      task: settings of the task that replace those that it was trained with, such as the names of
        fields.
      truncate: whether texts that are too long are cut, also where it was trained without any.

    Raises:
      UserError: not such a run or folder; a config.json that the parameters do not fit; what a run
        was frozen on top of has changed since; a setting that the task does not have.
    """
    if hugging_face.is_folder(folder):
        run, loaded = read_folder(folder, sequence_parts=sequence_parts, task=task)
        hugging_face.say_what_is_left(folder, loaded)
        return run
    given = load_config(folder)
    tokenizer = tokenizers.load(folder / "tokenizer")
    given["data"]["truncate"] |= truncate
    config, made, model, shapes = _make(folder, given, tokenizer, sequence_parts, task)
    policy = {name: config["checkpoint"][name] for name in ("best_metric", "best_mode")}
    step, state_params, host = restore_params(folder / "checkpoints", **policy)
    # A checkpoint holds only what was trained; the rest is made again as the run made it.
    params = task_params(config, made, model, None)[0] if host["frozen parameters"] else shapes
    trained = Trainable(config["lora"], config["train"]["frozen"], params)
    frozen: Params = {}
    if host["frozen parameters"]:
        frozen = trained.partition(params)[1]
        if checksum(frozen) != host["frozen parameters"]:
            raise UserError(
                f"{folder} was trained on top of init_from="
                f"{config['init_from'] or config['seed']}, which holds other parameters now; "
                "restore them"
            )
    language_model.check_shapes(folder, state_params, trained.shapes(shapes))
    return SavedTaskModel(
        folder=folder,
        config=config,
        task=made,
        model=model,
        step=step,
        params=trained.combine(state_params, frozen),
        tokenizer=tokenizer,
        base=trained.base(state_params, frozen),
        adapters=state_params.get("adapters"),
        lora=trained.lora,
    )


def shapes(folder: pathlib.Path) -> tuple[Params, Family]:
    """Gives the shapes of what `load` would read of a run, and its family; opens no checkpoint."""
    tokenizer = tokenizers.load(folder / "tokenizer")
    config, _, _, found = _make(folder, load_config(folder), tokenizer, 1, None)
    return found, family_named(config["model"]["name"])


def read_folder(
    folder: pathlib.Path, *, sequence_parts: int = 1, task: dict[str, Any] | None = None
) -> tuple[SavedTaskModel, hugging_face.Loaded]:
    """Opens a folder of `transformers` with a head as `load` does, and says how it was read."""
    given, tokenizer = imported_config(folder), tokenizers.load_file(folder)
    config, made, model, shapes = _make(folder, given, tokenizer, sequence_parts, task)
    loaded = hugging_face.load_params(
        folder,
        shapes_by_path(shapes),
        family=heads.with_head(config["model"], config["task"]["kind"], labels_of(config)),
        leave_out="heads",
    )
    params = loaded.params
    run = SavedTaskModel(folder, config, made, model, 0, params, tokenizer, params, None, None)
    pad_id = hugging_face.load_config(folder).get("pad_token_id")
    if ends_with_padding(run, pad_id):
        raise UserError(
            f"{folder}: its tokenizer ends each text with {tokenizer.piece(pad_id)}, which "
            "config.json takes for padding, so that transformers labels a text by the token "
            "before, and only the last one is looked at here"
        )
    return run, loaded


def ends_with_padding(run: language_model.SavedRun | SavedTaskModel, pad_id: int | None) -> bool:
    """Tells whether `transformers` would label a text by another token than the last."""
    if not (isinstance(run, SavedTaskModel) and "body" in run.params):
        return False
    # Its decoders look at the last token that is no padding, which may be what ends a text.
    is_decoder = family_named(run.config["model"]["name"]).architecture == "decoder"
    last = [run.tokenizer.frame(n).special_ids[-1][-1:] for n in (1, 2)]
    return is_decoder and run.config["task"]["kind"] in heads.OF_TEXTS and (pad_id,) in last


def _make(
    folder: pathlib.Path,
    config: dict[str, Any],
    tokenizer: tokenizers.Tokenizer,
    sequence_parts: int,
    settings: dict[str, Any] | None,
) -> tuple[dict[str, Any], Task, nn.Module, Params]:
    """Completes a config for this machine and settings; makes its task, model and shapes."""
    for name, value in (settings or {}).items():
        if name not in config["task"]:
            raise UserError(
                f"task.{name}={value!r}: {folder} does task.kind={config['task']['kind']}, which "
                f"has no such setting; it has {', '.join(config['task'])}"
            )
        config["task"][name] = value
    config["model"] = on_this_machine(config["model"])
    config["parallel"]["sequence"] = sequence_parts
    lengths = {name: config["data"][name] for name in ("seq_len", "truncate")}
    task = make_task(config["task"], text_inputs(config["model"], tokenizer, **lengths))
    model = make_model(config, task)
    shapes = jax.eval_shape(lambda key: task.objective.init_params(model, key), jax.random.key(0))
    return config, task, model, shapes


def labels_of(config: Config) -> tuple[str, ...]:
    """Names a task's outputs, as far as it has any."""
    return tuple(config["task"].get("labels", ()))


def imported_config(folder: pathlib.Path) -> dict[str, Any]:
    """Makes the config of a run that would have trained this folder of `transformers`.

    Of what such a folder does not say, the recipes in configs/ have the same.

    Raises:
      UserError: it has no head that is known here.
    """
    head = heads.head_of(hugging_face.load_config(folder))
    if head is None:
        raise UserError(f"{folder} holds no model for a task")
    block = hugging_face.load_model_block(folder)
    heads.with_head(block, *head)
    longest = 384 if head.kind == "question_answering" else 512
    seq_len = min(block.get("max_len", longest), longest)
    match head.kind:
        case "tagging":
            settings = dict(crf=False, on_ill_formed="raise", tokens="tokens", tags="tags")
            settings["scheme"] = scheme_of(head.labels)
        case "question_answering":
            stride = min(128, seq_len // 3)  # Windows overlap, also in a model of few positions.
            settings = dict(stride=stride, max_answer_len=30, unanswerable=False, scorer="squad")
        case kind:
            settings = dict(text="text", pair="", label="label")
            if kind != "regression":
                settings["class_weights"] = ",".join(["1"] * len(head.labels))
    labels = dict(labels=head.labels) if head.labels else {}
    return run_folder_lib.imported_config(block, str(folder)) | {
        "experiment": "finetune",
        "seed": 0,
        "init_from": "",
        "task": {"kind": head.kind} | labels | settings,
        "data": dict(
            source="",
            train="",
            validation="",
            validation_share=0.1,
            seq_len=seq_len,
            multiple=32,
            truncate=True,
            on_error="raise",
        ),
        "train": {"frozen": ""},
        "lora": dict(rank=0, alpha=16.0, targets="", rank_stabilized=False, dora=False),
        "checkpoint": dict(best_metric="", best_mode="max"),
        "eval": {"batch_size": 32},
        "parallel": dict(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1),
    }
