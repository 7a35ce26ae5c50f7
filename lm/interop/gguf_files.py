"""Writes decoders as GGUF, the one file of hyperparameters, tokenizer and weights of llama.cpp.

Dimension key: D model width, H heads, K head width.
"""

import functools
import importlib
import math
import pathlib
import struct
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from lm.errors import UserError
from lm.interop.family import HuggingFaceFamily, check_head_dim
from lm.interop.weights import Entry, Index, Layout, join, keys, shape_of, shapes_by_path
from lm.models import llama
from lm.models.parameters import Params

# How matrices are kept, with the package's name of such a file; all else is float32.
TYPES = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}
# By the model_type of transformers. Of what a Mistral has besides a Llama, readers know nothing.
_ARCHITECTURES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama", "qwen2": "qwen2"}
_BLOCK = 32  # Numbers of a row that share a scale in Q8_0.


def library() -> ModuleType:
    """Imports the package that knows the format; raises UserError where it is not there."""
    try:
        return importlib.import_module("gguf")
    except ImportError:
        raise UserError("format=gguf needs the gguf package; run: pip install gguf") from None


def check(model_type: str, *, has_head: bool) -> None:
    """Raises UserError without the `gguf` package, of another family, or of a task's head."""
    library()
    if model_type not in _ARCHITECTURES or has_head:
        raise UserError(
            f"format=gguf is for decoders that write ({', '.join(_ARCHITECTURES)}), and this is a "
            f"{model_type}{' with the head of a task' * has_head}; export it with "
            "--config.format=transformers"
        )


def without_window(model: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Gives a `model` block as readers can have it, and what to say of that.

    None of them knows that a token sees a window only; up to its length it sees all in any case.
    """
    window = model.get("window", 0)
    if not window or window >= model["max_len"]:
        return model | ({"window": 0} if window else {}), []
    note = (
        f"readers of a GGUF know no window: of {model['max_len']} positions it claims the {window} "
        "of which each token sees all"
    )
    return model | {"window": 0, "max_len": window}, [note]


def save(
    path: pathlib.Path,
    family: HuggingFaceFamily,
    model: dict[str, Any],
    params: Params,
    tokenizer: Mapping[str, Any],
    *,
    kind: str,
    name: str,
) -> None:
    """Writes a GGUF, one tensor at a time.

    Args:
      path: of the file, which does not exist yet.
      family: whose table names the tensors.
      model: the `model` block of the config, without muP and window.
      params: the parameter tree, float32.
      tokenizer: metadata by key.
      kind: one of `TYPES`, of the matrices; of Q8_0 those whose rows are no multiple of 32 are F16.
      name: of the model.

    Raises:
      UserError: the `gguf` package is not there, or a weight is too large for F16.
    """
    gguf, architecture = library(), _ARCHITECTURES[family.hf_config(model)["model_type"]]
    general = {
        "general.type": "model",
        "general.name": name,
        "general.file_type": int(gguf.LlamaFileType[TYPES[kind]]),
        "general.quantization_version": gguf.GGML_QUANT_VERSION,
    }
    own = {f"{architecture}.{key}": value for key, value in _hyperparameters(model).items()}
    writer = make_writer(gguf, path, architecture)
    add_metadata(gguf, writer, general | own | dict(tokenizer))
    tensors = list(_tensors(gguf, architecture, family, model, params))
    kinds = [_kind_of(gguf, tensor, kind) for tensor in tensors]
    for tensor, its_kind in zip(tensors, kinds, strict=True):
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, its_kind)
        writer.add_tensor_info(tensor.name, shape, np.uint8, math.prod(shape), its_kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor, its_kind in zip(tensors, kinds, strict=True):
        array = np.ascontiguousarray(tensor.read(), np.float32)
        largest = np.abs(array).max()
        if its_kind == gguf.GGMLQuantizationType.F16 and largest > np.finfo(np.float16).max:
            raise UserError(
                f"gguf_type={kind}: {tensor.name} holds {largest:g}, which float16 has not; "
                "take --config.gguf_type=F32"
            )
        writer.write_tensor_data(gguf.quantize(array, its_kind))
    writer.close()


class _Tensor(NamedTuple):
    name: str
    shape: tuple[int, ...]  # Outputs x inputs, whose rows lie together.
    read: Callable[[], np.ndarray]


def _tensors(
    gguf: ModuleType,
    architecture: str,
    family: HuggingFaceFamily,
    model: dict[str, Any],
    params: Params,
) -> Iterator[_Tensor]:
    """Lists what a file holds, by the names that all readers have."""
    number = next(i for i, known in gguf.MODEL_ARCH_NAMES.items() if known == architecture)
    names = gguf.get_tensor_name_map(number, model["num_layers"])
    flat, shapes = flatten_dict(params), shapes_by_path(params)

    def read(key: str, e: Entry, index: Index) -> np.ndarray:
        array = join(e, [np.asarray(flat[path][index]) for path in e.ours])
        if architecture == "llama" and key.endswith(("q_proj.weight", "k_proj.weight")):
            return _in_neighbours(array, model["head_dim"])
        return array.T if e.layout is Layout.IN_OUT else array

    for key, e, index in keys(family.table(model), shapes):
        shape = shape_of(e, shapes)
        shape = shape[::-1] if e.layout is Layout.IN_OUT else shape
        module, _, end = key.rpartition(".")
        name = f"{names.get_name(module)}.{end}"
        yield _Tensor(name, shape, functools.partial(read, key, e, index))
    if model.get("rope_factor", 1) != 1:
        factors = _rope_factors(model)
        yield _Tensor("rope_freqs.weight", factors.shape, lambda: factors)


def _kind_of(gguf: ModuleType, tensor: _Tensor, kind: str) -> Any:
    """Gives the kind of one tensor: that of the file for matrices, as far as it fits."""
    if len(tensor.shape) == 1 or tensor.name == "position_embd.weight":
        kind = "F32"  # Few numbers, and llama.cpp adds them to float32.
    elif kind == "Q8_0" and tensor.shape[-1] % _BLOCK:
        kind = "F16"
    return gguf.GGMLQuantizationType[kind]


def _hyperparameters(model: dict[str, Any]) -> dict[str, Any]:
    """Says the shape of a model in the words of the format."""
    shared = {
        "context_length": model["max_len"],
        "embedding_length": model["model_dim"],
        "block_count": model["num_layers"],
        "feed_forward_length": model["mlp_dim"],
        "attention.head_count": model["num_heads"],
    }
    if model["name"] == "gpt2":
        check_head_dim(model)
        return shared | {"attention.layer_norm_epsilon": 1e-5}
    return shared | {
        "attention.head_count_kv": model["num_kv_heads"],
        "attention.key_length": model["head_dim"],
        "attention.value_length": model["head_dim"],
        "attention.layer_norm_rms_epsilon": model["norm_epsilon"],
        "rope.dimension_count": model["head_dim"],
        "rope.freq_base": model["rope_theta"],
        "vocab_size": model["vocab_size"],
    }


def _rope_factors(model: dict[str, Any]) -> np.ndarray:
    """Gives by how much each pair of a head's dimensions turns slower than by its wavelength."""
    frequencies = lambda **changes: llama.rotary_frequencies(SimpleNamespace(**model | changes))
    return np.asarray(frequencies(rope_factor=1) / frequencies(), np.float32)


def _in_neighbours(matrix: np.ndarray, head_dim: int) -> np.ndarray:
    """Reorders outputs, HK x D: llama.cpp turns pairs (2i, 2i + 1) of a head, and not (i, i + K/2).

    Rows 0 1 2 3 of a head of four become 0 2 1 3.
    """
    by_half = matrix.reshape(-1, 2, head_dim // 2, matrix.shape[-1])
    return by_half.swapaxes(1, 2).reshape(matrix.shape)


def make_writer(gguf: ModuleType, path: pathlib.Path, architecture: str) -> Any:
    """Makes a writer of the package, which can write an empty list, too."""

    class Writer(gguf.GGUFWriter):
        def _pack_val(self, val, vtype, add_vtype, sub_type=None):
            if isinstance(val, list) and not val:  # It refuses what readers take.
                types = gguf.GGUFValueType
                return struct.pack("<IIQ", types.ARRAY, types.STRING, 0)
            return super()._pack_val(val, vtype, add_vtype, sub_type)

    return Writer(path, architecture)


def add_metadata(gguf: ModuleType, writer: Any, metadata: Mapping[str, Any]) -> None:
    """Adds values by key, each of the type that readers expect."""
    for key, value in metadata.items():
        writer.add_key_value(key, value, _value_type(gguf, value))


def _value_type(gguf: ModuleType, value: Any) -> Any:
    match value:
        case bool():  # Which is an int, too.
            return gguf.GGUFValueType.BOOL
        case int():
            return gguf.GGUFValueType.UINT32
        case list():
            return gguf.GGUFValueType.ARRAY
    return gguf.GGUFValueType.get_type(value)
