"""Writes folders of `transformers`: config.json, generation_config.json and safetensors."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from lm.errors import UserError
from lm.interop import tensor_files, weights
from lm.interop.family import HuggingFaceFamily
from lm.interop.tensor_files import INDEX, WEIGHTS
from lm.interop.weights import shapes_by_path
from lm.system import atomic_files

_SHARD_BYTES = 5_000_000_000


def save_config(
    folder: pathlib.Path,
    family: HuggingFaceFamily,
    model: dict[str, Any],
    dtype: str,
    special_ids: dict[str, int],
    stop_ids: Sequence[int],
    generation: dict[str, Any],
) -> None:
    """Writes config.json and generation_config.json.

    Args:
      folder: exists.
      family: one of FAMILIES that covers `model`, or what `heads.with_head` makes of one.
      model: the `model` block of the config.
      dtype: of the weights.
      special_ids: bos_token_id and the like, for config.json and generation_config.json.
      stop_ids: all that end a text, for generation_config.json, which transformers goes by.
      generation: what else stands there.
    """
    # Named also where they are None: transformers would put the family's own ids there.
    ids = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")) | special_ids
    config = {"dtype": dtype} | ids | family.hf_config(model)
    if config.get("is_encoder_decoder"):
        ids["decoder_start_token_id"] = config["decoder_start_token_id"] = ids["pad_token_id"]
    atomic_files.write(folder / "config.json", json.dumps(config, indent=2) + "\n")
    ends = {"eos_token_id": stop_ids[0] if len(stop_ids) == 1 else list(stop_ids) or None}
    contents = json.dumps(generation | ids | ends, indent=2) + "\n"
    atomic_files.write(folder / "generation_config.json", contents)


def save_weights(
    folder: pathlib.Path,
    family: HuggingFaceFamily,
    model: dict[str, Any],
    params: dict[str, Any],
    dtype: str,
) -> None:
    """Writes the parameter tree, float32, as files of `dtype`, in shards where it is large.

    `save_config` has the other arguments.
    """
    flat = flatten_dict(params)
    for path in family.zeros:
        if np.any(flat[path]):
            kind = family.hf_config(model)["architectures"][0]
            raise UserError(
                f"{'/'.join(path)} is not 0, and transformers' {kind} has no such parameter"
            )
    shards: list[dict[str, np.ndarray]] = [{}]
    size_bytes = lambda shard: sum(x.nbytes for x in shard.values())
    for key, e, index in weights.keys(family.table(model), shapes_by_path(params)):
        tensor = weights.join(e, [np.asarray(flat[path][index]) for path in e.ours])
        tensor = np.ascontiguousarray(tensor.astype(dtype))  # safetensors writes views wrongly.
        if shards[-1] and size_bytes(shards[-1]) + tensor.nbytes > _SHARD_BYTES:
            shards.append({})
        shards[-1][key] = tensor
    names = [WEIGHTS]
    if len(shards) > 1:
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        weight_map = {k: name for name, s in zip(names, shards, strict=True) for k in s}
        index = {"metadata": {"total_size": sum(map(size_bytes, shards))}, "weight_map": weight_map}
        atomic_files.write(folder / INDEX, json.dumps(index, indent=2) + "\n")
    for name, shard in zip(names, shards, strict=True):
        tensor_files.write_tensors(folder / name, shard)
