"""Folders of `transformers`: config.json and safetensors, read and written tensor by tensor.

Nothing is ever unpickled.
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import ml_dtypes  # noqa: F401  Teaches NumPy the name bfloat16.
import numpy as np
import safetensors
import safetensors.numpy

from lm.errors import UserError
from lm.interop import gpt2

FAMILIES = {gpt2.MODEL_TYPE: gpt2}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD_BYTES = 5_000_000_000

Paths = dict[tuple[str, ...], np.ndarray]


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


def load_params(
    folder: pathlib.Path, shapes: dict[tuple[str, ...], tuple[int, ...]]
) -> tuple[dict[str, Any], str]:
    """Reads the weights into a float32 parameter tree.

    Args:
      folder: of `transformers`.
      shapes: of each parameter, by path.

    Returns:
      The tree, and the dtype of the files ("float32", "bfloat16", "float16").

    Raises:
      UserError: keys that are missing or unknown, all listed; a wrong shape; no safetensors.
    """
    family = FAMILIES[load_config(folder)["model_type"]]
    tensors = _Tensors(folder)
    wanted = {key: (entry, i) for key, entry, i in _keys(family, shapes)}
    found = {_normal(name, family): name for name in tensors.names()}
    ignored = {k for k in found if k.endswith(family.IGNORED_SUFFIXES)} | {family.TIED[0]}
    missing, unknown = (
        sorted(wanted.keys() - found.keys()),
        sorted(found.keys() - wanted.keys() - ignored),
    )
    if missing or unknown:
        raise UserError(
            f"{folder}: missing keys: {', '.join(missing) or 'none'}; unknown keys: "
            f"{', '.join(unknown) or 'none'}"
        )
    params = {path: np.empty(shape, np.float32) for path, shape in shapes.items()}
    dtypes = set()
    for key, (entry, layer) in wanted.items():
        tensor = tensors.read(found[key])
        dtypes.add(tensor.dtype.name)
        expected = family.shape_of(entry, shapes)
        if tensor.shape != expected:
            raise UserError(
                f"{folder}: {found[key]} has shape {tensor.shape}, and "
                f"config.json asks for {expected}"
            )
        for path, array in family.split(entry, tensor, shapes):
            (params[path] if layer is None else params[path][layer])[...] = array
    head, embedding = family.TIED
    if head in found and not np.array_equal(
        tensors.read(found[head]), tensors.read(found[embedding])
    ):
        raise UserError(
            f"{folder}: {head} differs from {embedding}; an untied output is not supported"
        )
    if len(dtypes) > 1:
        raise UserError(f"{folder}: the weights mix dtypes {', '.join(sorted(dtypes))}")
    return _nested(params), dtypes.pop()


def save(
    folder: pathlib.Path,
    model: dict[str, Any],
    params: dict[str, Any],
    dtype: str,
    special_ids: dict[str, int],
) -> None:
    """Writes config.json and the weights, in shards where they are large.

    Args:
      folder: exists.
      model: the `model` block of the config.
      params: the parameter tree, float32.
      dtype: of the files.
      special_ids: bos_token_id and the like, for config.json and generation_config.json.
    """
    family = FAMILIES[model["name"]]
    # Named also where they are None: transformers would put GPT-2's own ids there.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | special_ids
    config = family.hf_config(model) | {"dtype": dtype} | ids
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
    flat = flatten(params)
    shapes = {path: x.shape for path, x in flat.items()}
    shards: list[dict[str, np.ndarray]] = [{}]
    size = 0
    for key, entry, layer in _keys(family, shapes):
        ours = [flat[path] if layer is None else flat[path][layer] for path in entry.ours]
        tensor = family.join(entry, [np.asarray(x) for x in ours], family.shape_of(entry, shapes))
        tensor = np.ascontiguousarray(tensor.astype(dtype))
        if size and size + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][family.PREFIX + key] = tensor
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


class _Tensors:
    """The tensors of a folder by name, each read when it is asked for."""

    def __init__(self, folder: pathlib.Path):
        if (folder / _INDEX).exists():
            names = json.loads((folder / _INDEX).read_text())["weight_map"]
            self._files = {key: folder / file for key, file in names.items()}
        elif (folder / _WEIGHTS).exists():
            with safetensors.safe_open(folder / _WEIGHTS, framework="numpy") as file:
                self._files = dict.fromkeys(file.keys(), folder / _WEIGHTS)
        else:
            raise UserError(
                f"{folder} holds no {_WEIGHTS}; pickled weights are never read. Convert: python "
                '-c "from transformers import AutoModelForCausalLM as M; '
                f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
            )
        for file in set(self._files.values()):
            if not file.exists():
                raise UserError(f"{folder}/{_INDEX} names {file.name}, which is not there")

    def names(self) -> list[str]:
        return list(self._files)

    def read(self, name: str) -> np.ndarray:
        with safetensors.safe_open(self._files[name], framework="numpy") as file:
            return file.get_tensor(name)


def _keys(family, shapes) -> Iterator[tuple[str, Any, int | None]]:
    """Every key of theirs without its prefix, with its table entry and layer."""
    num_layers = next(shape[0] for path, shape in shapes.items() if path[0] == "layers")
    for entry in family.TABLE:
        if "{i}" not in entry.theirs:
            yield entry.theirs, entry, None
            continue
        for i in range(num_layers):
            yield entry.theirs.format(i=i), entry, i


def _normal(name: str, family) -> str:
    return name.removeprefix(family.PREFIX)


def flatten(tree: Any, path: tuple[str, ...] = ()) -> Paths:
    """Nested dicts -> one dict by path."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {p: x for key, child in tree.items() for p, x in flatten(child, (*path, key)).items()}


def _nested(flat: Paths) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for (*parents, name), value in flat.items():
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
