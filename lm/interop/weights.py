"""How one tensor of `transformers` holds arrays of ours, in either direction.

One table a family serves both directions, so that they cannot drift apart.

Dimension key: N layers, D model width, H heads, K head width.
"""

import enum
import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

Path = tuple[str, ...]
Shapes = dict[Path, tuple[int, ...]]


class Layout(enum.Enum):
    """What lies where in a tensor of theirs.

    TABLE: as ours. VECTOR: ours, flattened. IN_OUT, OUT_IN: a matrix of inputs x outputs, or the
    transposed one, whichever dimensions of heads ours has.
    """

    TABLE = enum.auto()
    VECTOR = enum.auto()
    IN_OUT = enum.auto()
    OUT_IN = enum.auto()


class Entry(NamedTuple):
    """One tensor of theirs, and the arrays of ours that it holds.

    theirs: its name; `{i}` counts layers, which ours has along a leading dimension.
    ours: paths in the parameter tree; if several, their outputs stand side by side.
    layout: see `Layout`.
    num_in_dims: how many dimensions of ours are inputs: two where heads are read.
    """

    theirs: str
    ours: tuple[Path, ...]
    layout: Layout
    num_in_dims: int = 1


def entry(theirs: str, ours: str | list[str], layout: Layout, num_in_dims: int = 1) -> Entry:
    """An `Entry` whose paths are written with slashes."""
    paths = [ours] if isinstance(ours, str) else ours
    return Entry(theirs, tuple(tuple(path.split("/")) for path in paths), layout, num_in_dims)


def in_layers(theirs: str, ours: str, entries: list[Entry]) -> list[Entry]:
    """Entries of one layer -> the same in a stack, whose names begin with these."""
    path = tuple(ours.split("/"))
    return [
        e._replace(theirs=theirs + e.theirs, ours=tuple((*path, *p) for p in e.ours))
        for e in entries
    ]


def keys(table: list[Entry], shapes: Shapes) -> Iterator[tuple[str, Entry, int | None]]:
    """Every tensor of theirs by name, with its entry and its layer."""
    for e in table:
        if "{i}" not in e.theirs:
            yield e.theirs, e, None
            continue
        for i in range(shapes[e.ours[0]][0]):
            yield e.theirs.format(i=i), e, i


def shape_of(e: Entry, shapes: Shapes) -> tuple[int, ...]:
    """The shape that one tensor of theirs must have, given those of ours."""
    ours = [_of_one_layer(e, shapes[path]) for path in e.ours]
    match e.layout:
        case Layout.TABLE:
            return ours[0]
        case Layout.VECTOR:
            return (sum(map(math.prod, ours)),)
    in_size = math.prod(ours[0][: e.num_in_dims])
    shape = in_size, sum(math.prod(shape[e.num_in_dims :]) for shape in ours)
    return shape if e.layout is Layout.IN_OUT else shape[::-1]


def split(e: Entry, tensor: np.ndarray, shapes: Shapes) -> Iterator[tuple[Path, np.ndarray]]:
    """One tensor of theirs -> each array of ours that it holds, in our shape."""
    if e.layout is Layout.OUT_IN:
        tensor = tensor.T
    start = 0
    for path in e.ours:
        shape = _of_one_layer(e, shapes[path])
        if e.layout is Layout.TABLE:
            yield path, tensor
            return
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
