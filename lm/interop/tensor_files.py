"""Reads and writes safetensors: first the headers of a folder's files, then each tensor when asked.

Nothing is ever unpickled.
"""

import functools
import json
import pathlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import ml_dtypes  # noqa: F401  Teaches NumPy the name bfloat16.
import numpy as np
import safetensors
import safetensors.numpy

from lm.errors import UserError
from lm.run.workdir import read_json
from lm.system import folder_files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_CHECKSUMS = "lm.crc32"  # In the metadata of a file: by the name of a tensor.
_FLOATS = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


class TensorHeader(NamedTuple):
    """Holds what is known of a tensor without reading it."""

    file: pathlib.Path
    shape: tuple[int, ...]
    dtype: str  # As safetensors names it.
    checksum: str | None  # What `write_tensors` left; None where others wrote the file.


class TensorFiles:
    """Gives a folder's weights by name; `headers` says what there is.

    As `transformers` does, it prefers a whole file to an index, and takes every tensor of each file
    that the index names.

    Raises:
      UserError: there are none, a file is missing or damaged, lies outside the folder, or two files
        hold one tensor.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self.headers: dict[str, TensorHeader] = {}
        listed = {} if folder_files.has(folder / WEIGHTS) else _listed(folder)
        for file in sorted({*listed.values()}) or [WEIGHTS]:
            for name, header in headers_of(folder / file).items():
                if name in self.headers:
                    raise UserError(
                        f"{folder}: {file} and {self.headers[name].file.name} both hold {name}; "
                        "remove one of them"
                    )
                self.headers[name] = header
        if absent := sorted(listed.keys() - self.headers.keys()):
            raise UserError(
                f"{folder / INDEX} says that {listed[absent[0]]} holds {absent[0]}, and it does "
                "not; get the folder again"
            )

    def check_dense(self, names: Iterable[str]) -> None:
        """Raises UserError where some of these tensors are those of a quantized model."""
        for name in names:
            dtype = self.headers[name].dtype
            if name.endswith(_QUANTIZED) or dtype.startswith(("F8", "F4")):
                raise UserError(f"{self.folder}: {name} ({dtype}) {quantized(None)}")

    def dtype(self, name: str) -> str:
        """Names a tensor's dtype as NumPy does; raises UserError as `read_tensor` does."""
        return _float_dtype(name, self.headers[name])

    def read(self, name: str) -> np.ndarray:
        """Reads one tensor; raises UserError as `read_tensor` does."""
        return read_tensor(self.headers[name].file, name)


# Ends of names beside a matrix, or in its place, in the formats that people publish.
_QUANTIZED = (
    "weight_scale",
    "weight_scale_inv",
    "weight_packed",
    "weight_zero_point",
    "input_scale",
    "qweight",
    "qzeros",
    "weight.absmax",
    "weight.quant_map",
    ".SCB",
)


def quantized(method: str | None) -> str:
    """Words what an error says of something that shows that a model is quantized."""
    return (
        f"says that the weights are quantized ({method or 'by an unnamed method'}), and only dense "
        "ones are read: load the model with transformers, dequantized (dequantize=True in its "
        "quantization config, or model.dequantize()), and save_pretrained it; or take the release "
        "that it was made from"
    )


def by_full_name(
    place: pathlib.Path, names: Iterable[str], full_name: Callable[[str], str]
) -> dict[str, str]:
    """Maps what a whole model would call each tensor to its name in the files.

    Raises:
      UserError: two are the same.
    """
    found: dict[str, str] = {}
    for name in names:
        if (other := found.setdefault(full_name(name), name)) != name:
            raise UserError(
                f"{place}: {other} and {name} are two names of one parameter; remove one of them"
            )
    return found


def read_tensor(path: pathlib.Path, name: str) -> np.ndarray:
    """Reads one tensor of a file of safetensors.

    Raises:
      UserError: it has a dtype that no weights here have, cannot be read, is damaged, also where
        only the checksum that `write_tensors` left tells so, or holds numbers that are not finite.
    """
    header = headers_of(path)[name]
    _float_dtype(name, header)
    with _open(path) as file:
        try:
            tensor = file.get_tensor(name)
        except safetensors.SafetensorError as error:
            raise UserError(f"{path}: {error}; get it again") from None
    if header.checksum not in (None, _checksum(tensor)):
        raise _not_as_written(path, name)
    if not np.isfinite(tensor).all():
        raise UserError(
            f"{path}: {name} holds numbers that are not finite (NaN or infinity), and no model "
            "works with them; get the file again"
        )
    return tensor


def _float_dtype(name: str, header: TensorHeader) -> str:
    if header.dtype not in _FLOATS:
        raise UserError(
            f"{header.file}: {name} has dtype {header.dtype}, and weights here may be "
            f"{', '.join(_FLOATS)}; convert it with transformers: load the model with "
            "dtype=torch.float32 (dequantized, if it is quantized), and save it again"
        )
    return _FLOATS[header.dtype]


def _not_as_written(path: pathlib.Path, what: str) -> UserError:
    return UserError(
        f"{path} is damaged, or was changed after it was written: its checksums do not fit {what}; "
        "get it again, or, if it was changed on purpose, save it without the metadata "
        f"{_CHECKSUMS}"
    )


def write_tensors(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a file of safetensors as `transformers` loads it, with a checksum of each tensor.

    Others pass over the checksums; most who save the tensors anew drop them.
    """
    checksums = json.dumps({name: _checksum(tensor) for name, tensor in tensors.items()})
    metadata = {"format": "pt", _CHECKSUMS: checksums}
    safetensors.numpy.save_file(dict(tensors), path, metadata=metadata)
    # It writes the metadata in another order each time, and the same tensors should make the same
    # file. A file begins with the header's length, 8 bytes, and the header, JSON padded by spaces.
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        file.seek(8)
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
        file.write(text.encode().ljust(size))


def _checksum(tensor: np.ndarray) -> str:
    return f"{zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)):08x}"


def some(names: Iterable[str], at_most: int = 6) -> str:
    """Lists names in a line: sorted, the rest of many as a number, "none" for none."""
    names = sorted(names)
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more or "none"


def _listed(folder: pathlib.Path) -> dict[str, str]:
    """Reads from the index which file holds each tensor."""
    path = folder / INDEX
    if not folder_files.has(path):
        raise UserError(
            f"{folder} holds no {WEIGHTS}; pickled weights are never read. Convert: python -c "
            f'"from transformers import {_class_name(folder)} as M; '
            f"M.from_pretrained('{folder}').save_pretrained('{folder}')\""
        )
    index = read_json(path)
    listed = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{path} has no weight_map, a file for each tensor; get it again")
    for name, file in listed.items():
        # A link is followed, for that is how the cache of huggingface_hub keeps its files.
        is_name = isinstance(file, str) and pathlib.PurePath(file).name == file
        if not is_name or file in ("", "..") or "\\" in file:
            raise UserError(
                f"{path}: the file of {name} is {file!r}, and only a name in this folder is read"
            )
        if not folder_files.has(folder / file):
            raise UserError(f"{path} names {file}, which is not there; get it too")
    return listed


def _class_name(folder: pathlib.Path) -> str:
    """Names the class of `transformers` that reads all weights of the folder."""
    match read_json(folder / "config.json").get("architectures"):
        case [str(name)] if name.isidentifier():  # It becomes part of a command.
            return name
    return "AutoModel"


def headers_of(path: pathlib.Path) -> dict[str, TensorHeader]:
    """Reads the header of each tensor in a file of safetensors.

    Raises:
      UserError: it is damaged, or cannot be read.
    """
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    return _headers_of(path, (stat.st_ino, stat.st_size, stat.st_mtime_ns))


@functools.lru_cache(maxsize=1024)
def _headers_of(path: pathlib.Path, state: tuple[int, ...]) -> dict[str, TensorHeader]:
    del state  # Read once for each state of a file: a file may hold tens of thousands of headers.
    with _open(path) as file:
        # A slice knows its shape and dtype; none of the tensor is read.
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        text = (file.metadata() or {}).get(_CHECKSUMS)
    try:
        # Lower, as they are written: hex in capitals says the same.
        checksums = {k: v.lower() for k, v in json.loads(text).items()} if text is not None else {}
    except (ValueError, AttributeError, RecursionError):
        raise _not_as_written(path, "any tensor") from None
    # A damaged name must not leave a tensor unchecked.
    if text is not None and (other := sorted(checksums.keys() ^ slices.keys())):
        raise _not_as_written(path, other[0])
    return {
        name: TensorHeader(path, tuple(s.get_shape()), s.get_dtype(), checksums.get(name))
        for name, s in slices.items()
    }


def _open(path: pathlib.Path) -> safetensors.safe_open:
    try:
        path.open("rb").close()  # Whose error says why a file cannot be read.
        return safetensors.safe_open(path, framework="numpy")
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); get it again") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
