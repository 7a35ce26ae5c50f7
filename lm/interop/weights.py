"""Maps each tensor of `transformers` to the arrays of ours that it holds, in either direction.

One table a family serves both directions, so that they cannot drift apart.

Dimension key: N layers, D model width, H heads, K head width.
"""

import enum
import math
import types
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

Path = tuple[str, ...]
Shapes = dict[Path, tuple[int, ...]]
Index = int | types.EllipsisType  # A layer of an array that is stacked, or all of another one.


class Layout(enum.Enum):
    """Says how a tensor of theirs lays out the arrays of ours that it holds."""

    TABLE = enum.auto()  # The same array, as an embedding is.
    VECTOR = enum.auto()  # Ours, flattened: a bias of H x K is one of HK.
    IN_OUT = enum.auto()  # A matrix of inputs x outputs, whichever dimensions of heads ours has.
    OUT_IN = enum.auto()  # The transposed one, as torch.nn.Linear keeps its weight.


class Entry(NamedTuple):
    """Names one tensor of theirs, and the arrays of ours that it holds."""

    theirs: str  # Its name; `{i}` counts layers, which ours has along a leading dimension N.
    ours: tuple[Path, ...]  # In the parameter tree; of several, the outputs stand side by side.
    layout: Layout
    num_in_dims: int = 1  # Dimensions of ours that are inputs: 2 of H x K x D, which reads heads.


def entry(theirs: str, ours: str | list[str], layout: Layout, num_in_dims: int = 1) -> Entry:
    """Makes an `Entry` from paths that are written with slashes."""
    paths = [ours] if isinstance(ours, str) else ours
    return Entry(theirs, tuple(tuple(path.split("/")) for path in paths), layout, num_in_dims)


def affine(
    theirs: str,
    ours: str,
    layout: Layout = Layout.OUT_IN,
    num_in_dims: int = 1,
    *,
    has_bias: bool = True,
) -> list[Entry]:
    """Lists the entries of a `Dense`: its kernel, and its bias unless it has none."""
    kernel = entry(f"{theirs}.weight", f"{ours}/kernel", layout, num_in_dims)
    bias = entry(f"{theirs}.bias", f"{ours}/bias", Layout.VECTOR)
    return [kernel, bias] if has_bias else [kernel]


def norm(theirs: str, ours: str) -> list[Entry]:
    """Lists the entries of a LayerNorm, whose weight there is our scale."""
    scale = entry(f"{theirs}.weight", f"{ours}/scale", Layout.VECTOR)
    return [scale, entry(f"{theirs}.bias", f"{ours}/bias", Layout.VECTOR)]


def in_layers(theirs: str, ours: str, entries: list[Entry]) -> list[Entry]:
    """Puts the entries of one layer into a stack, whose names begin with these."""
    path = tuple(ours.split("/"))
    stacked = lambda e: tuple((*path, *own) for own in e.ours)
    return [e._replace(theirs=theirs + e.theirs, ours=stacked(e)) for e in entries]


def shapes_by_path(tree: Any) -> Shapes:
    """Gives the shape of each array in nested dicts; those of `jax.eval_shape` are enough."""
    return {path: x.shape for path, x in flatten_dict(tree).items()}


def keys(table: list[Entry], shapes: Shapes) -> Iterator[tuple[str, Entry, Index]]:
    """Yields each tensor of theirs by name, with its entry and its index in the arrays of ours."""
    for e in table:
        if "{i}" in e.theirs:
            for i in range(shapes[e.ours[0]][0]):  # N of N x ..., the same for all of `e.ours`.
                yield e.theirs.format(i=i), e, i
        else:
            yield e.theirs, e, ...


def shape_of(e: Entry, shapes: Shapes) -> tuple[int, ...]:
    """Computes the shape that one tensor of theirs must have, given those of ours."""
    ours = [_of_one_layer(e, shapes[path]) for path in e.ours]
    match e.layout:
        case Layout.TABLE:
            return ours[0]
        case Layout.VECTOR:
            return (sum(map(math.prod, ours)),)
    in_size = math.prod(ours[0][: e.num_in_dims])  # All of `ours` read the same inputs.
    shape = in_size, sum(math.prod(shape[e.num_in_dims :]) for shape in ours)
    return shape if e.layout is Layout.IN_OUT else shape[::-1]


def split(e: Entry, tensor: np.ndarray, shapes: Shapes) -> Iterator[tuple[Path, np.ndarray]]:
    """Yields each array of ours that a tensor of theirs holds, in our shape."""
    if e.layout is Layout.OUT_IN:
        tensor = tensor.T  # A view: whoever takes a part copies it into its own array.
    start = 0
    for path in e.ours:
        shape = _of_one_layer(e, shapes[path])
        if e.layout is Layout.TABLE:
            yield path, tensor
            return
        # Of a vector, all dimensions are outputs: H x K of a bias, whose kernel is D x H x K.
        size = math.prod(shape[e.num_in_dims if tensor.ndim == 2 else 0 :])
        yield path, tensor[..., start : start + size].reshape(shape)
        start += size


def join(e: Entry, ours: list[np.ndarray]) -> np.ndarray:
    """Inverts `split`."""
    match e.layout:
        case Layout.TABLE:
            return ours[0]
        case Layout.VECTOR:
            return np.concatenate([x.reshape(-1) for x in ours])
    matrices = [x.reshape(math.prod(x.shape[: e.num_in_dims]), -1) for x in ours]
    matrix = np.concatenate(matrices, axis=1)
    return matrix if e.layout is Layout.IN_OUT else matrix.T


def _of_one_layer(e: Entry, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if "{i}" in e.theirs else shape
