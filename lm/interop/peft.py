"""Reads and writes adapters as folders of `peft`: adapter_config.json and safetensors.

Theirs belong to modules of `transformers`, ours to kernels. Mostly that is one to one. But GPT-2's
c_attn is our query, key and value: its A stands for all three, and its B and magnitudes are theirs
side by side. Nothing is ever unpickled.

Dimension key: D model width, H heads, K head width, r rank.
"""

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from lm.errors import UserError
from lm.interop import weights
from lm.interop.hugging_face import FAMILIES, model_type_of
from lm.interop.tensor_files import by_full_name, headers_of, read_tensor, write_tensors
from lm.interop.weights import Entry, Layout, Path, Shapes, shapes_by_path
from lm.models import families
from lm.models.lora import LoraConfig, adapter_shapes, by_kernel, magnitudes
from lm.system import atomic_files, folder_files

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_PREFIX = "base_model.model."  # Of every name: peft wraps the model twice.
_TASKS = {"decoder": "CAUSAL_LM", "encoder": None, "encoder_decoder": "SEQ_2_SEQ_LM"}
_READ: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (lambda x: type(x) is int and 0 < x < 2**31, "a whole number above 0"),
    # What float32 holds, in which adapters are merged.
    "lora_alpha": (lambda x: type(x) in (int, float) and 0 < x < 2**127, "a finite number above 0"),
    "use_rslora": (lambda x: isinstance(x, bool), "true or false"),
    "use_dora": (lambda x: isinstance(x, bool), "true or false"),
}
# These say how adapters were found or trained, not what they do.
_IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",  # How transformers stores the kernel; A and B do not depend on it.
    "inference_mode",
    "lora_dropout",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "target_modules",  # The names of the tensors say it.
    "task_type",
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "bias": ("none",),
    # The other ways to begin change the weights that adapters are added to.
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}


def is_folder(path: pathlib.Path) -> bool:
    """Tells whether this looks like a folder of `peft`."""
    return (path / _CONFIG).exists()


def load_adapters(
    folder: pathlib.Path, model: dict[str, Any], shapes: Shapes
) -> tuple[LoraConfig, dict[str, Any]]:
    """Reads a folder of `peft`; the config's `targets` match the kernels that it adapts.

    GPT-2's adapter of c_attn becomes three, of query, key and value, with equal A.

    Args:
      folder: as `save_pretrained` of `peft` wrote it.
      model: the `model` block of the config.
      shapes: of each parameter of the model, by path.

    Raises:
      UserError: settings that ours lacks; keys that are missing or unknown, all listed; a wrong
        shape; no safetensors.
    """
    settings = _load_settings(folder)
    file = _check_weights(folder)
    kernels = [e for e in _kernels(model) if e.ours[0] in shapes]
    entry_of = {key.removesuffix(".weight"): e for key, e, _ in weights.keys(kernels, shapes)}
    prefix = FAMILIES[model_type_of(model)].prefix
    headers = headers_of(file)
    found = by_full_name(file, headers, lambda name: _full_name(name, prefix, entry_of))
    # Which modules are adapted, the tensors say: `target_modules` may be a pattern.
    adapted = {entry_of[m] for m in map(_module, found) if m in entry_of}
    kernels = [e for e in kernels if e in adapted]
    config = LoraConfig(
        rank=settings["r"],
        alpha=settings["lora_alpha"],
        targets=f"^({'|'.join(re.escape('/'.join(path)) for e in kernels for path in e.ours)})$",
        rank_stabilized=settings["use_rslora"],
        dora=settings["use_dora"],
    )
    structs = {p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in shapes.items()}
    ours = shapes_by_path(adapter_shapes(unflatten_dict(structs), config)) if adapted else {}
    table = [row for e in kernels for row in _rows(e, config.dora)]
    wanted = list(weights.keys(table, ours))  # An A that three kernels share is in it three times.
    known = {key for key, _, _ in wanted}
    missing = sorted(known - found.keys())
    unknown = sorted(name for key, name in found.items() if key not in known)
    if missing or unknown or not wanted:
        raise UserError(
            f"{file}: missing keys: {', '.join(missing) or 'none'}; unknown keys: "
            f"{', '.join(unknown) or 'none'}; it does not fit a {model_type_of(model)} with these "
            "settings"
        )
    for key, row, _ in wanted:  # Before memory is taken for what the settings ask for.
        shape, expected = headers[found[key]].shape, weights.shape_of(row, ours)
        if shape != expected:
            raise UserError(
                f"{file}: {found[key]} has shape {shape}, and the model and {_CONFIG} ask "
                f"for {expected}"
            )
    adapters = {path: np.empty(shape, np.float32) for path, shape in ours.items()}
    for key, row, index in wanted:
        for path, array in weights.split(row, read_tensor(file, found[key]), ours):
            adapters[path][index] = array
    return config, unflatten_dict(adapters)


def save_adapters(
    folder: pathlib.Path,
    model: dict[str, Any],
    config: LoraConfig,
    adapters: dict[str, Any],
    params: dict[str, Any],
    *,
    base_model: str | None = None,
) -> None:
    """Writes a folder of `peft`, float32.

    GPT-2's query, key and value become one adapter of c_attn: of the same rank where their A are
    equal, else of a rank that adds up, in blocks; a target that is missing adds zero. All modules
    have the largest rank, alpha grows with it, and zeros fill up, so that the product with the
    scale is what it was.

    Args:
      folder: exists.
      model: the `model` block of the config.
      config: of the adapters.
      adapters: the tree of `lora.init_adapters`.
      params: of the base model. Only shapes are read, and with DoRA values of what is missing in
        c_attn.
      base_model: name or folder of the base model, for readers that look for it.

    Raises:
      UserError: a kernel that `transformers` has no name for.
    """
    flat = by_kernel(adapters)
    entries = [e for e in _kernels(model) if any(path in flat for path in e.ours)]
    lost = sorted(flat.keys() - {path for e in entries for path in e.ours})
    if lost:
        raise UserError(
            f"{'/'.join(lost[0])} has an adapter, and transformers' {model_type_of(model)} has no "
            "such module; export the merged weights, or leave it out of lora.targets"
        )
    config, arrays = _as_modules(entries, flat, config, flatten_dict(params))
    rows = [row for e in entries for row in _rows(e, config.dora)]
    tensors = {}
    for key, row, index in weights.keys(rows, {path: x.shape for path, x in arrays.items()}):
        tensor = weights.join(row, [arrays[path][index] for path in row.ours])
        tensors[key] = np.ascontiguousarray(tensor)  # safetensors writes no transposed view.
    settings = dict(
        peft_type="LORA",
        task_type=_TASKS[families.FAMILIES[model["name"]].architecture],
        base_model_name_or_path=base_model,
        inference_mode=True,
        r=config.rank,
        lora_alpha=int(config.alpha) if config.alpha == int(config.alpha) else config.alpha,
        lora_dropout=0.0,
        use_rslora=config.rank_stabilized,
        use_dora=config.dora,
        fan_in_fan_out=any(e.layout is Layout.IN_OUT for e in entries),
        bias="none",
        # Each by its full name: an ending could match another module.
        target_modules=sorted({_module(key) for key in tensors}),
    )
    atomic_files.write(folder / _CONFIG, json.dumps(settings, indent=2) + "\n")
    write_tensors(folder / _WEIGHTS, tensors)


def _load_settings(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / _CONFIG
    if not folder_files.has(path):
        raise UserError(f"{folder} holds no {_CONFIG}; give a folder that peft wrote")
    settings = {"use_rslora": False, "use_dora": False}
    settings |= folder_files.json_object(path, path.read_bytes())
    for key, (is_right, what) in _READ.items():
        if not is_right(settings.get(key)):
            raise UserError(f"{path}: {key}={settings.get(key)!r} is not {what}; restore the file")
    for key, allowed in _ONLY.items():
        if settings.get(key, allowed[0]) not in allowed:
            known = ", ".join(map(repr, allowed))
            raise UserError(f"{path}: {key}={settings[key]!r} is not supported; only {known} is")
    for key in settings.keys() - _READ.keys() - _IGNORED - _ONLY.keys():
        if settings[key]:
            raise UserError(
                f"{path}: {key}={settings[key]!r} is not supported; merge the adapters into the "
                "weights by peft's merge_and_unload and load those"
            )
    return settings


def _check_weights(folder: pathlib.Path) -> pathlib.Path:
    if folder_files.has(folder / _WEIGHTS):
        return folder / _WEIGHTS
    if (folder / _PICKLED).exists():
        raise UserError(
            f"{folder / _PICKLED} is pickled, and that is never read. Convert: python -c "
            '"import torch, safetensors.torch as s; '
            f"s.save_file({{k: v.contiguous() for k, v in torch.load('{folder / _PICKLED}', "
            f"map_location='cpu', weights_only=True).items()}}, '{folder / _WEIGHTS}')\""
        )
    raise UserError(f"{folder} holds no {_WEIGHTS}; give a folder that peft wrote")


def _kernels(model: dict[str, Any]) -> list[Entry]:
    table = FAMILIES[model_type_of(model)].table(model)
    return [e for e in table if e.layout in (Layout.IN_OUT, Layout.OUT_IN)]


def _rows(e: Entry, dora: bool) -> list[Entry]:
    """Turns a kernel's entry into those of its adapter; kernels that share an A have one each."""
    module = _PREFIX + e.theirs.removesuffix(".weight")
    of = lambda name: tuple((*path, name) for path in e.ours)
    # A is r x inputs and B outputs x r there: both are Linear, also where the module is a Conv1D.
    rows = [Entry(f"{module}.lora_A.weight", (a,), Layout.OUT_IN, e.num_in_dims) for a in of("a")]
    rows.append(Entry(f"{module}.lora_B.weight", of("b"), Layout.OUT_IN))
    vector = Entry(f"{module}.lora_magnitude_vector", of("magnitude_scale"), Layout.VECTOR)
    return [*rows, vector] if dora else rows


def _module(key: str) -> str:
    return key.removeprefix(_PREFIX).rpartition(".lora_")[0]


def _full_name(name: str, prefix: str, modules: dict[str, Entry]) -> str:
    """Adds the prefix that adapters of a bare model lack."""
    if prefix + _module(name) in modules:
        return _PREFIX + prefix + name.removeprefix(_PREFIX)
    return name


def _as_modules(
    entries: list[Entry],
    adapters: dict[Path, dict[str, Any]],
    config: LoraConfig,
    params: dict[Path, Any],
) -> tuple[LoraConfig, dict[Path, np.ndarray]]:
    """Makes adapters that do the same, with one A a module, one rank, and all kernels of a module.

    Query and value of rank 1, with A_q and A_v of their own and no adapter of the key, become

        A, D x 2         A_q A_v
        B, 2 x HK        query: B_q   key: 0   value: 0
                                0          0          B_v
    """
    r = config.rank
    blocks: dict[Path, int] = {}  # Which r columns of its module's A a kernel has.
    for e in entries:
        present = [path for path in e.ours if path in adapters]
        first = adapters[present[0]]["a"]
        equal = all(np.array_equal(first, adapters[path]["a"]) for path in present)
        blocks |= {path: 0 if equal else i for i, path in enumerate(present)}
    factor = 1 + max(blocks.values())  # By which the rank of every module grows.
    arrays = {}
    for e in entries:
        shape = params[e.ours[0]].shape
        layers = shape[: 1 if "{i}" in e.theirs else 0]
        into = len(layers) + e.num_in_dims  # Dimensions in front of the outputs.
        shared = np.zeros((*shape[:into], factor * r), np.float32)
        for path in e.ours:
            arrays[(*path, "a")] = shared
            b = np.zeros((*layers, factor * r, *params[path].shape[into:]), np.float32)
            if path in blocks:
                rows = slice(blocks[path] * r, (blocks[path] + 1) * r)
                shared[..., rows] = adapters[path]["a"]
                b[(slice(None),) * len(layers) + (rows,)] = adapters[path]["b"]
            arrays[(*path, "b")] = b
            if config.dora:
                own = adapters.get(path, {}).get("magnitude_scale")
                # Of a kernel without an adapter, the magnitude that leaves it as it is.
                length = magnitudes(path, params[path]) if own is None else own
                arrays[(*path, "magnitude_scale")] = np.asarray(length)
    # The scale is alpha / r, or alpha / sqrt(r), and must stay what it was.
    alpha = config.alpha * (math.sqrt(factor) if config.rank_stabilized else factor)
    return dataclasses.replace(config, rank=factor * r, alpha=alpha), arrays
