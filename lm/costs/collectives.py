"""What devices send one another in a compiled step, read from its optimised HLO."""

import collections
import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")

# What a value may pass through on its way to the operation that uses it.
_CARRIERS = {"get-tuple-element", "bitcast", "copy", "transpose", "reshape", "convert"}


class Traffic(NamedTuple):
    """What one device takes part in during a step, over one kind of collective and group."""

    count: float  # Of arrays.
    payload_bytes: float  # Together: of what an all-gather gives, and of what all others take.


# By kind, and by the axes of the mesh along which the devices of a group lie.
Collectives = dict[tuple[str, tuple[str, ...]], Traffic]


class _Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    operands: list[str]  # Names, or what else stands there, such as the number of a parameter.
    attributes: str


def collectives_of(hlo: str, axis_sizes: Mapping[str, int]) -> Collectives:
    """Counts the collectives of a step, those in loops as often as the loop runs.

    An all-reduce of which each device keeps only its own slice counts as a reduce-scatter: the
    compilers of GPUs and TPUs make one of it (XLA's ReduceScatterCreator), the CPU's does not.

    Args:
      hlo: `compiled.as_text()`, of one program for all devices.
      axis_sizes: of the mesh, whose devices are numbered in its order.
    """
    computations, entry = _parse(hlo)
    found = collections.defaultdict(lambda: Traffic(0, 0))
    for times, computation, instruction in _walk(computations, entry, 1):
        axes = _axes(instruction.attributes, axis_sizes)
        num_devices = math.prod(axis_sizes[axis] for axis in axes)
        for index, num_bytes in enumerate(_element_bytes(instruction.type)):
            kind = instruction.opcode
            if kind == "reduce-scatter":  # Its type is what it gives, a slice of what it takes.
                num_bytes *= num_devices
            elif kind == "all-reduce" and _is_sliced(
                computations, computation, instruction, index, num_bytes / num_devices
            ):
                kind = "reduce-scatter"
            count, payload_bytes = found[kind, axes]
            found[kind, axes] = Traffic(count + times, payload_bytes + times * num_bytes)
    # A group of one device, which no axis spans, sends nothing.
    return {key: traffic for key, traffic in found.items() if key[1]}


def sent_bytes(kind: str, payload_bytes: float, num_devices: int) -> float:
    """Returns what each device of a group sends (Patarasuk & Yuan 2009; NCCL's PERFORMANCE.md)."""
    if kind == "collective-permute":
        return payload_bytes
    # In rings, which no algorithm undercuts. All-reduce is a reduce-scatter and an all-gather.
    passes = 2 if kind == "all-reduce" else 1
    return passes * payload_bytes * (num_devices - 1) / num_devices


# Reading HLO -----------------------------------------------------------------------------------


def _parse(hlo: str) -> tuple[dict[str, list[_Instruction]], str]:
    """Returns instructions by computation, and the name of the one the program starts in."""
    computations, entry, name = {}, None, None
    for line in hlo.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            name = header[2]
            computations[name] = []
            entry = name if header[1] else entry
        elif match := re.match(r"\s+(?:ROOT )?%?([\w.-]+) = (\(.*?\)|\S+) ([\w-]+)\((.*)", line):
            operands, attributes = _split_operands(match[4])
            computations[name].append(_Instruction(*match.groups()[:3], operands, attributes))
    assert entry is not None, hlo[:200]
    return computations, entry


def _split_operands(text: str) -> tuple[list[str], str]:
    """Splits at the closing parenthesis: operands before it, attributes behind it."""
    end = depth = 0
    while depth >= 0:  # The types of operands may hold parentheses of their own.
        depth += {"(": 1, ")": -1}.get(text[end], 0)
        end += 1
    inside = text[: end - 1]
    return re.findall(r"%([\w.-]+)", inside) or [inside], text[end:]


def _walk(
    computations: dict[str, list[_Instruction]], name: str, times: int
) -> Iterator[tuple[int, str, _Instruction]]:
    """Yields every collective that runs, how often, and the computation in which it stands."""
    for instruction in computations[name]:
        if instruction.opcode in KINDS:
            yield times, name, instruction
        elif instruction.opcode == "while":
            body = re.search(r"body=%?([\w.-]+)", instruction.attributes)[1]
            trips = re.search(r'known_trip_count":\{"n":"(\d+)"', instruction.attributes)
            inside = list(_walk(computations, body, times * int(trips[1]) if trips else 0))
            assert trips or not inside, f"collectives in a loop of unknown length: {body}"
            yield from inside
        elif instruction.opcode in ("call", "conditional"):
            # Of a condition, what either way holds: an upper bound.
            for inner in re.findall(r"%([\w.-]+)", instruction.attributes.split("metadata=")[0]):
                yield from _walk(computations, inner, times)


def _element_bytes(text: str) -> list[int]:
    """Returns the sizes in a type: 24 and 1 of `(f32[2,3]{1,0}, pred[])`."""
    return [
        math.prod(int(n) for n in shape.split(",") if n)
        * (1 if dtype == "pred" else int(re.search(r"\d+", dtype)[0]) // 8)
        for dtype, shape in re.findall(r"([a-z]\w*)\[([\d,]*)\]", text)
    ]


def _axes(attributes: str, axis_sizes: Mapping[str, int]) -> tuple[str, ...]:
    """Returns the axes of the mesh along which the devices of one group differ."""
    shape = tuple(axis_sizes.values())
    if pairs := re.search(r"source_target_pairs=\{(.*?)\}\}", attributes):
        groups = np.array(re.findall(r"(\d+),(\d+)", pairs[1]), int)
    else:
        groups = _groups(attributes, math.prod(shape))
    coordinates = np.unravel_index(groups, shape)
    return tuple(
        axis for axis, at in zip(axis_sizes, coordinates, strict=True) if (at != at[:, :1]).any()
    )


def _groups(attributes: str, num_devices: int) -> np.ndarray:
    """Returns groups x members, in any of the three ways in which XLA writes them."""
    text = re.search(r"replica_groups=(.*)", attributes)[1]
    if named := re.match(r"mesh\[(.*?)\](?:, device_ids=\((.*?\))\))? \{(.*?)\}", text):
        names, sizes = zip(*re.findall(r"'(\w+)'=(\d+)", named[1]), strict=True)
        sizes = [int(n) for n in sizes]
        ids = _iota(f"[{num_devices}]<={named[2] or f'[{num_devices}]'}")
        inside = [names.index(name) for name in re.findall(r"'(\w+)'", named[3])]
        grid = np.moveaxis(ids.reshape(sizes), inside, range(-len(inside), 0))
        return grid.reshape(-1, math.prod(sizes[i] for i in inside))
    if text.startswith("["):
        return _iota(text)
    groups = re.findall(r"\{([\d,]+)\}", text.split("}}")[0] + "}")
    if not groups:  # `replica_groups={}` is one group of all.
        return np.arange(num_devices)[None]
    return np.array([[int(n) for n in group.split(",")] for group in groups])


def _iota(text: str) -> np.ndarray:
    """Reads `[4,2]<=[2,2,2]T(2,1,0)`: 0 to 7 as 2 x 2 x 2, transposed, then as 4 x 2."""
    numbers = lambda part: [int(n) for n in part.split(",")]
    shape, source, order = re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text).groups()
    ids = np.arange(math.prod(numbers(source))).reshape(numbers(source))
    return (ids.transpose(numbers(order)) if order else ids).reshape(numbers(shape))


def _is_sliced(
    computations: dict[str, list[_Instruction]],
    computation: str,
    instruction: _Instruction,
    index: int,
    slice_bytes: float,
) -> bool:
    """Whether each device keeps nothing but its slice of this element of an all-reduce."""

    def only_sliced(computation: str, name: str) -> bool:
        uses = [i for i in computations[computation] if name in i.operands]
        return bool(uses) and all(is_slice(computation, name, use) for use in uses)

    def is_slice(computation: str, name: str, use: _Instruction) -> bool:
        if use.opcode == "dynamic-slice":
            return use.operands[0] == name and _element_bytes(use.type) == [slice_bytes]
        if use.opcode in ("fusion", "call"):
            inner = re.search(r"(?:calls|to_apply)=%?([\w.-]+)", use.attributes)[1]
            at = {str(i) for i, operand in enumerate(use.operands) if operand == name}
            return all(
                only_sliced(inner, i.name)
                for i in computations[inner]
                if i.opcode == "parameter" and i.operands[0] in at
            )
        return use.opcode in _CARRIERS and only_sliced(computation, use.name)

    if not instruction.type.startswith("("):
        return only_sliced(computation, instruction.name)
    element = [
        i.name
        for i in computations[computation]
        if i.opcode == "get-tuple-element"
        and i.operands == [instruction.name]
        and re.search(r"index=(\d+)", i.attributes)[1] == str(index)
    ]
    return bool(element) and all(only_sliced(computation, name) for name in element)
