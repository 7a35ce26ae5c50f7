"""Reads and writes folders of `transformers`, config.json and safetensors, tensor by tensor.

Nothing is ever unpickled.
"""

import contextlib
import json
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from absl import logging
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.interop import bert, gpt2, llama, settings, t5, weights
from lm.interop.family import HuggingFaceFamily
from lm.interop.tensor_files import TensorFiles, by_full_name, quantized, some
from lm.interop.weights import Entry, Index, Path, Shapes
from lm.models.parameters import TABLES
from lm.run.workdir import read_json
from lm.system import folder_files

FAMILIES = {
    model_type: family
    for family in (bert.BERT, bert.ROBERTA, gpt2.FAMILY, llama.FAMILY, t5.FAMILY)
    for model_type in family.model_types
}
# What may follow the prefix of a body and is none of it, in a family whose prefix is empty.
_HEADS = {"lm_head", "cls", "classifier", "score", "qa_outputs"}


def is_folder(path: pathlib.Path) -> bool:
    """Tells whether this looks like a folder of `transformers`."""
    try:
        config = read_json(path / "config.json")
    except UserError:
        return False
    return isinstance(config, dict) and "model_type" in config


def load_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads config.json of a known model.

    Raises:
      UserError: a model_type that no family here has, or weights that are quantized.
    """
    config = read_json(folder / "config.json")
    model_type = config["model_type"]
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UserError(
            f"{folder}/config.json: model_type={model_type!r} is unknown; known are "
            f"{', '.join(sorted(FAMILIES))}"
        )
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        raise UserError(f"{folder}/config.json: quantization_config {quantized(method)}")
    return config


def load_model_block(folder: pathlib.Path) -> dict[str, Any]:
    """Reads config.json as our `model` block.

    Raises:
      UserError: a model_type or a setting that no family here has; a number of layers that the
        files do not hold.
    """
    return _read_settings(folder)[0]


def _read_settings(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, Any], TensorFiles]:
    """Reads the `model` block, the settings that are not known here, and the files' headers."""
    config = load_config(folder)
    family = FAMILIES[config["model_type"]]
    with _naming(folder):
        table = family.settings(config["model_type"])
        used, unknown = settings.read(config, table, family.aliases)
    files = TensorFiles(folder)
    with _naming(folder):
        model = family.model_block(used, config["model_type"], files.headers.keys())
    # Before anything is counted up to a number of layers that the files contradict.
    held = _num_layers(family, model, files.headers)
    if held != model["num_layers"]:
        raise UserError(
            f"{folder}/config.json asks for {model['num_layers']} layers, and the files hold {held}"
        )
    return model, unknown, files


@contextlib.contextmanager
def _naming(folder: pathlib.Path) -> Iterator[None]:
    """Adds the folder to errors about config.json."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).replace("config.json", f"{folder}/config.json", 1)) from None


def _num_layers(family: HuggingFaceFamily, model: dict[str, Any], names: Iterable[str]) -> int:
    """Counts the layers that the files hold; of two stacks, those of the larger one."""
    starts = {e.theirs.split("{i}")[0] for e in family.table(model) if "{i}" in e.theirs}
    starts = tuple({s.removeprefix(family.prefix) for s in starts} | starts)
    numbers = [
        part
        for name in names
        for start in starts
        if name.startswith(start) and (part := name[len(start) :].split(".")[0]).isdecimal()
    ]
    return max(map(int, numbers), default=-1) + 1


class Loaded(NamedTuple):
    """Holds what a folder's weights gave."""

    params: dict[str, Any]  # The parameter tree, float32.
    dtype: str  # Of the files; "float32" where they have several, so that none is rounded.
    missing: list[Path]  # Not in the folder: these hold what `initial` gave, or are absent.
    left_out: list[str]  # Tensors that no parameter takes, and unknown settings of config.json.
    notes: list[str]  # What else is to be said of them, in lines.


class Plan(NamedTuple):
    """Says which tensor of a folder goes where, before any is read; see `Loaded`."""

    files: TensorFiles
    wanted: dict[str, tuple[Entry, Index]]  # By the full name of each tensor.
    found: dict[str, str]  # By full name, what the files call it.
    tied: dict[str, str]  # Copies that the files hold, each with the name of what it must repeat.
    dtype: str
    missing: list[Path]
    left_out: list[str]
    notes: list[str]


def plan(
    folder: pathlib.Path,
    shapes: Shapes,
    *,
    family: HuggingFaceFamily | None = None,
    may_lack: Callable[[Path], bool] = lambda path: False,
    leave_out: str = "nothing",
) -> Plan:
    """Compares a folder with the parameters that a model needs, by the headers of its files alone.

    Args:
      folder: of `transformers`.
      shapes: of each parameter, by path.
      family: whose table names the tensors; None for that of the pretrained model.
      may_lack: which parameters need not be there, such as those of a head.
      leave_out: which tensors may be left out that no parameter takes: "nothing", "heads" (what is
        not of the body) or "anything".

    Raises:
      UserError: keys that are missing, unknown or there under two names; a wrong shape or dtype; no
        safetensors.
    """
    model, unknown_settings, files = _read_settings(folder)
    family = family or FAMILIES[load_config(folder)["model_type"]]
    wanted = {key: (e, i) for key, e, i in weights.keys(family.table(model), shapes)}
    tied = family.tied(model)
    known = wanted.keys() | tied.keys()
    found = by_full_name(folder, files.headers, lambda name: _full_name(name, family, known))
    for copy, original in tied.items():  # Files may hold a shared tensor under either name.
        if copy in found and original not in found:
            found[original] = found.pop(copy)
    notes = []
    for key, other in family.fallbacks(model).items():
        if key in wanted and key not in found and other in found:
            found[key] = found[other]
            notes.append(f"{key} is not in the files, and is that of {other}, as in transformers")
    unknown = [k for k in found if k not in known and not k.endswith(family.ignored)]
    files.check_dense(found[k] for k in found if k in wanted or k in unknown)
    missing = [k for k in wanted if k not in found]
    covered = {path for e, _ in wanted.values() for path in e.ours}
    refused = {
        "nothing": [k for k in unknown if not k.endswith(family.spare)],
        "heads": [k for k in unknown if _is_of_body(k, family, wanted)],
        "anything": [],
    }[leave_out]
    lacking = [k for k in missing if not all(map(may_lack, wanted[k][0].ours))]
    # A stack that lacks one layer lacks the whole array, N x ...
    absent = {path for key in missing for path in wanted[key][0].ours}
    absent |= shapes.keys() - covered - {*family.zeros}
    if lacking or refused:
        raise UserError(
            f"{folder}: missing keys: {some(lacking)}; unknown keys: {some(refused)}"
            + _what_helps(lacking, refused, family, wanted)
        )
    used = wanted.keys() & found.keys()
    dtypes = {files.dtype(found[key]) for key in used}
    if len(dtypes) > 1:
        notes.append(
            f"the files have {' and '.join(sorted(dtypes))}: all are kept as float32, and so "
            "written again, for nothing is rounded"
        )
    for key in used:
        shape, expected = files.headers[found[key]].shape, weights.shape_of(wanted[key][0], shapes)
        if shape != expected:
            raise UserError(
                f"{folder}: {found[key]} has shape {shape}, and config.json asks for {expected}"
            )
    return Plan(
        files,
        wanted,
        found,
        {copy: original for copy, original in tied.items() if copy in found},
        dtypes.pop() if len(dtypes) == 1 else "float32",
        sorted(absent),
        sorted({over_layers(found[key]) for key in unknown})
        + [f"config.json: {k}={str(v)[:60]}" for k, v in sorted(unknown_settings.items())]
        + modules_beside(folder),
        notes,
    )


def load_params(
    folder: pathlib.Path,
    shapes: Shapes,
    *,
    initial: Callable[[], dict[Path, Any]] | None = None,
    **choices,
) -> Loaded:
    """Reads the weights one tensor at a time, so that nothing is held twice.

    Args:
      folder: of `transformers`.
      shapes: of each parameter, by path.
      initial: makes the parameters that the folder does not have; None leaves them absent.
      **choices: see `plan`.

    Raises:
      UserError: see `plan`; also numbers that are not finite.
    """
    files, wanted, found, tied, dtype, missing, left_out, notes = plan(folder, shapes, **choices)
    drawn = initial() if initial and missing else {}
    params = {path: np.array(drawn[path], np.float32) for path in missing if path in drawn}
    params |= {p: np.zeros(s, np.float32) for p, s in shapes.items() if p not in missing}
    for key in wanted.keys() & found.keys():
        e, index = wanted[key]
        if not params.keys() >= {*e.ours}:
            continue  # Another layer of it is missing.
        for path, array in weights.split(e, files.read(found[key]), shapes):
            params[path][index] = array  # Becomes float32 here, which every dtype there fits in.
    for copy, original in tied.items():  # A copy that differs would be lost.
        if not np.array_equal(files.read(found[copy]), files.read(found[original])):
            raise UserError(
                f"{folder}: {found[copy]} differs from {found[original]}, though config.json says "
                "that they are tied; untied ones are not supported"
            )
    return Loaded(unflatten_dict(params), dtype, missing, left_out, notes)


def modules_beside(folder: pathlib.Path) -> list[str]:
    """Names what sentence-transformers does with a model's states, which nobody does here.

    Its modules.json lists the model itself, whose path is "", and a folder for what pools,
    normalises or projects.
    """
    path = folder / "modules.json"
    if not folder_files.has(path):
        return []
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        parts = [(str(each["path"]), str(each["type"]).rpartition(".")[2]) for each in found]
    except (ValueError, TypeError, KeyError, RecursionError):
        return ["modules.json, which is damaged"]
    return [f"modules.json: {name} ({kind})" for name, kind in parts if name]


def is_bare_encoder(folder: pathlib.Path) -> bool:
    """Tells whether this is a BERT or RoBERTa without any head, as sentence encoders are.

    Raises:
      UserError: see `load_config`, and `TensorFiles`.
    """
    family = FAMILIES[load_config(folder)["model_type"]]
    names = TensorFiles(folder).headers
    parts = {name.removeprefix(family.prefix).split(".")[0] for name in names}
    return family in (bert.BERT, bert.ROBERTA) and parts <= {"embeddings", "encoder", "pooler"}


def over_layers(name: str) -> str:
    """Puts a star in place of a layer's number: "h.3.ln_1.weight" -> "h.*.ln_1.weight"."""
    return ".".join("*" if part.isdecimal() else part for part in name.split("."))


def say_what_is_left(folder: pathlib.Path, loaded: Loaded) -> None:
    """Logs what of a folder is not used, and what else is to be said of it."""
    if loaded.left_out:
        listed = "; ".join(loaded.left_out)
        logging.warning("%s: left out, for it has no place here: %s", folder, listed)
    for note in loaded.notes:
        logging.warning("%s: %s", folder, note)


def _is_of_body(key: str, family: HuggingFaceFamily, wanted: Iterable[str]) -> bool:
    """Tells whether a tensor without a place stands in the body, rather than in some head."""
    if key.endswith(family.spare):
        return False
    first = lambda name: name.removeprefix(family.prefix).split(".")[0]
    modules = {first(name) for name in wanted if name.startswith(family.prefix)} - _HEADS
    return (bool(family.prefix) and key.startswith(family.prefix)) or first(key) in modules


def _what_helps(
    lacking: list[str], refused: list[str], family: HuggingFaceFamily, wanted: Iterable[str]
) -> str:
    """Names the options of configs/convert.py that let this pass, where it is about heads."""
    if any(_is_of_body(key, family, wanted) for key in [*lacking, *refused]):
        return "; the model has no place for them, or needs them: get the folder again"
    options = {"allow_missing": lacking, "allow_unknown": refused}
    helps = " ".join(f"--config.{name}=True" for name, names in options.items() if names)
    return (
        f"; none is of the body: convert.py takes the others with {helps}, which draws what is "
        "missing at random and leaves out what is unknown"
    )


def resize_vocabulary(params: dict[str, Any], old_size: int, new_size: int) -> dict[str, Any]:
    """Appends tokens, whose embeddings and entries of an output's bias are the mean of the old.

    So a new token is at first as likely as an average one (Hewitt 2021, "Initializing new word
    embeddings").

    Raises:
      UserError: fewer tokens than there are.
    """
    if new_size < old_size:
        raise UserError(
            f"vocab_size={new_size} is less than the {old_size} tokens of source; no token is "
            "dropped: give more, or 0 to keep them"
        )

    def resize(path, x):
        if path[-1] not in TABLES:
            return x
        new = np.broadcast_to(x.mean(axis=0), (new_size - old_size, *x.shape[1:]))
        return np.concatenate([x, new.astype(x.dtype)])

    return unflatten_dict({path: resize(path, x) for path, x in flatten_dict(params).items()})


def model_type_of(model: dict[str, Any]) -> str:
    """Says by which model_type `transformers` knows a model of ours."""
    if model["name"] == "bert":
        return bert.model_type_of(model)
    if model["name"] == "llama":
        return llama.hf_config(model)["model_type"]
    return model["name"]


def _full_name(name: str, family: HuggingFaceFamily, known: set[str]) -> str:
    """Adds the prefix that tensors of a bare model lack."""
    # Files that TensorFlow's checkpoints of BERT were turned into have its names of a norm.
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    return family.prefix + name if family.prefix + name in known else name
