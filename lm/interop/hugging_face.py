"""Folders of `transformers`: config.json and safetensors, read and written tensor by tensor.

Nothing is ever unpickled.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  Teaches NumPy the name bfloat16.
import numpy as np
import safetensors
import safetensors.numpy
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.interop import bert, gpt2, llama, t5
from lm.interop.family import HuggingFaceFamily
from lm.interop.weights import Path, Shapes, join, keys, shape_of, split

FAMILIES = {
    model_type: family
    for family in (bert.BERT, bert.ROBERTA, gpt2.FAMILY, llama.FAMILY, t5.FAMILY)
    for model_type in family.model_types
}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD_BYTES = 5_000_000_000


def is_folder(path: pathlib.Path) -> bool:
    """Whether this looks like a folder of `transformers`."""
    try:
        return "model_type" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False


def load_config(folder: pathlib.Path) -> dict[str, Any]:
    """config.json of a known model.

    Raises:
      UserError: a model_type that no family here has.
    """
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in FAMILIES:
        raise UserError(
            f"{folder}/config.json: model_type={config['model_type']!r} is unknown; known are "
            f"{', '.join(sorted(FAMILIES))}"
        )
    return config


def load_model_block(folder: pathlib.Path) -> dict[str, Any]:
    """The `model` block of ours that config.json asks for.

    Raises:
      UserError: a model_type or a setting that no family here has.
    """
    config = load_config(folder)
    try:
        return FAMILIES[config["model_type"]].model_block(config)
    except KeyError as error:
        raise UserError(f"{folder}/config.json lacks {error}; restore the file") from None


class Loaded(NamedTuple):
    """What a folder's weights gave.

    params: the parameter tree, float32.
    dtype: of the files ("float32", "bfloat16", "float16").
    missing: parameters that the folder does not have; they hold what `initial` gave.
    unknown: keys that no parameter takes.
    """

    params: dict[str, Any]
    dtype: str
    missing: list[Path]
    unknown: list[str]


def load_params(
    folder: pathlib.Path,
    shapes: Shapes,
    *,
    initial: Callable[[], dict[Path, Any]] | None = None,
    allow_unknown: bool = False,
) -> Loaded:
    """Reads the weights one tensor at a time, so that nothing is held twice.

    Args:
      folder: of `transformers`.
      shapes: of each parameter, by path.
      initial: makes the parameters that the folder does not have, such as a head; None: it must
        have all.
      allow_unknown: leaves out what no parameter takes, such as another head.

    Raises:
      UserError: keys that are missing or unknown, all listed; a wrong shape; no safetensors.
    """
    family = FAMILIES[load_config(folder)["model_type"]]
    model = load_model_block(folder)
    tensors = _Tensors(folder)
    wanted = {key: (e, i) for key, e, i in keys(family.table(model), shapes)}
    tied = family.tied(model)
    found = {_full_name(n, family, wanted.keys() | tied.keys()): n for n in tensors.names()}
    for copy, original in tied.items():  # Files may hold a shared tensor under either name.
        if copy in found and original not in found:
            found[original] = found.pop(copy)
    ignored = {key for key in found if family.ignored and key.endswith(family.ignored)}
    missing = sorted(wanted.keys() - found.keys())
    unknown = sorted(found.keys() - wanted.keys() - tied.keys() - ignored)
    if (missing and initial is None) or (unknown and not allow_unknown):
        raise UserError(
            f"{folder}: missing keys: {', '.join(missing) or 'none'}; unknown keys: "
            f"{', '.join(unknown) or 'none'}"
        )
    params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    missing_paths = sorted({path for key in missing for path in wanted[key][0].ours})
    for path in missing_paths:
        params[path] = np.array(initial()[path], np.float32)
    dtypes = set()
    for key in wanted.keys() - set(missing):
        e, layer = wanted[key]
        tensor = tensors.read(found[key])
        dtypes.add(tensor.dtype.name)
        expected = shape_of(e, shapes)
        if tensor.shape != expected:
            raise UserError(
                f"{folder}: {found[key]} has shape {tensor.shape}, and "
                f"config.json asks for {expected}"
            )
        for path, array in split(e, tensor, shapes):
            (params[path] if layer is None else params[path][layer])[...] = array
    _check_tied(folder, tied, found, tensors)
    if len(dtypes) > 1:
        raise UserError(f"{folder}: the weights mix dtypes {', '.join(sorted(dtypes))}")
    return Loaded(unflatten_dict(params), dtypes.pop(), missing_paths, unknown)


def _check_tied(folder, tied: dict[str, str], found: dict[str, str], tensors: "_Tensors") -> None:
    """A copy that differs from what it should repeat would be lost."""
    for copy, original in tied.items():
        if copy in found and not np.array_equal(
            tensors.read(found[copy]), tensors.read(found[original])
        ):
            raise UserError(
                f"{folder}: {found[copy]} differs from {found[original]}, though config.json says "
                "that they are tied; untied ones are not supported"
            )


def resize_vocabulary(params: dict[str, Any], old_size: int, new_size: int) -> dict[str, Any]:
    """Appends tokens: each new row of an embedding, or entry of an output's bias, is their mean.

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
        if path[-1] not in ("token_embedding", "output_embedding", "output_bias"):
            return x
        new = np.broadcast_to(x.mean(axis=0), (new_size - old_size, *x.shape[1:]))
        return np.concatenate([x, new.astype(x.dtype)])

    return unflatten_dict({path: resize(path, x) for path, x in flatten_dict(params).items()})


def save(
    folder: pathlib.Path,
    family: HuggingFaceFamily,
    model: dict[str, Any],
    params: dict[str, Any],
    dtype: str,
    special_ids: dict[str, int],
    stop_ids: Sequence[int],
) -> None:
    """Writes config.json and the weights, in shards where they are large.

    Args:
      folder: exists.
      family: one of FAMILIES that covers `model`, or what `heads.with_head` makes of one.
      model: the `model` block of the config.
      params: the parameter tree, float32.
      dtype: of the files.
      special_ids: bos_token_id and the like, for config.json and generation_config.json.
      stop_ids: all that end a text, for generation_config.json, which transformers goes by.
    """
    # Named also where they are None: transformers would put the family's own ids there.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | special_ids
    config = {"dtype": dtype} | ids | family.hf_config(model)
    if config.get("is_encoder_decoder"):
        ids["decoder_start_token_id"] = config["decoder_start_token_id"] = ids["pad_token_id"]
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    ends = {"eos_token_id": stop_ids[0] if len(stop_ids) == 1 else list(stop_ids) or None}
    generation = json.dumps(ids | ends, indent=2) + "\n"
    (folder / "generation_config.json").write_text(generation)
    flat = flatten_dict(params)
    shapes = {path: x.shape for path, x in flat.items()}
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for key, e, layer in keys(family.table(model), shapes):
        ours = [flat[path] if layer is None else flat[path][layer] for path in e.ours]
        tensor = np.ascontiguousarray(join(e, [np.asarray(x) for x in ours]).astype(dtype))
        if size and size + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += tensor.nbytes
    names = [_WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        weight_map = {k: name for name, s in zip(names, shards, strict=True) for k in s}
        total = sum(x.nbytes for shard in shards for x in shard.values())
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    for name, shard in zip(names, shards, strict=True):
        safetensors.numpy.save_file(shard, folder / name, metadata={"format": "pt"})


def model_type_of(model: dict[str, Any]) -> str:
    """The model_type that `transformers` gives to a model of ours."""
    if model["name"] == "bert":
        return "roberta" if model["position_offset"] else "bert"
    if model["name"] == "llama":
        return llama.hf_config(model)["model_type"]
    return model["name"]


class _Tensors:
    """The tensors of a folder by name, each read when it is asked for."""

    def __init__(self, folder: pathlib.Path):
        if (folder / _INDEX).exists():
            names = json.loads((folder / _INDEX).read_text())["weight_map"]
            self._files = {key: folder / file for key, file in names.items()}
        elif (folder / _WEIGHTS).exists():
            self._files = dict.fromkeys(tensor_names(folder / _WEIGHTS), folder / _WEIGHTS)
        else:
            (name,) = load_config(folder).get("architectures") or ["AutoModel"]
            raise UserError(
                f"{folder} holds no {_WEIGHTS}; pickled weights are never read. Convert: python "
                f'-c "from transformers import {name} as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        for file in set(self._files.values()):
            if not file.exists():
                raise UserError(f"{folder}/{_INDEX} names {file.name}, which is not there")

    def names(self) -> list[str]:
        return list(self._files)

    def read(self, name: str) -> np.ndarray:
        return read_tensor(self._files[name], name)


def tensor_names(path: pathlib.Path) -> list[str]:
    """The names in a file of safetensors.

    Raises:
      UserError: it is damaged.
    """
    with _open(path) as file:
        return list(file.keys())


def read_tensor(path: pathlib.Path, name: str) -> np.ndarray:
    """One tensor of a file of safetensors.

    Raises:
      UserError: it is damaged.
    """
    with _open(path) as file:
        try:
            return file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise UserError(f"{path}: {error}; get it again") from None


def _open(path: pathlib.Path) -> safetensors.safe_open:
    try:
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from None


def _full_name(name: str, family: HuggingFaceFamily, known: set[str]) -> str:
    """The name that a model with its head gives a tensor; files of a bare model lack the prefix.

    Old files call a norm's weight gamma and its bias beta.
    """
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    return family.prefix + name if family.prefix + name in known else name
