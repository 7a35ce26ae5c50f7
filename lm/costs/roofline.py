"""Predicts the least time of a step on one device from its jaxpr: arithmetic and memory traffic.

The model is a roofline for each kernel (Williams et al. 2009): a product or an attention kernel
takes the longer of its arithmetic at the device's peak and its operands at the memory's bandwidth.
All else is bound by memory, and as well fused as it could be: what can be computed between the same
two kernels is one pass, which reads each array once and writes what later ones need. Kernels run
one after the other. Launches and integer arithmetic cost nothing, and neither do loops of unknown
length, so that real steps take longer; less would they take if a product took over what follows it.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from jax.extend import core

from lm.costs.flops import peak_flops
from lm.costs.hardware import Chip


class StepSeconds(NamedTuple):
    """Seconds of a step by what takes them, and how many random numbers it draws."""

    products: float
    attention: float  # In fused kernels alone: without them it is products and passes.
    passes: float
    num_random: int  # Of 32 bits. Their integer arithmetic is in no figure here.

    @property
    def seconds(self) -> float:
        """Adds up all parts, since they run one after the other."""
        return self.products + self.attention + self.passes


def step_seconds(jaxpr: core.ClosedJaxpr, chip: Chip) -> StepSeconds:
    """Predicts the seconds of one run of a traced function, as `jax.jit(f).trace(...).jaxpr`."""
    walk = _Walk(chip)
    outputs = walk.run(jaxpr.jaxpr, [_Value(_bytes(v), 0, None) for v in jaxpr.jaxpr.invars])
    return walk.total(outputs)


@dataclasses.dataclass(eq=False)
class _Value:
    num_bytes: int
    level: int  # How many kernels precede it: it can be read from this pass on.
    maker: int | None  # The pass that makes it; None for what is in memory anyway.


# What costs nothing: consumers read its operand in another shape, or as a wider type.
_FREE = {
    *("reshape", "broadcast_in_dim", "squeeze", "expand_dims", "transpose", "rev", "copy"),
    *("stop_gradient", "sharding_constraint", "optimization_barrier", "reduce_precision"),
}
# What no other kernel is fused with, besides products: it moves the parts that it touches.
_MOVES = {"gather", "dynamic_slice", "scatter", "scatter-add", "dynamic_update_slice", "sort"}


class _Walk:
    """Adds up the kernels of a jaxpr, nested ones where they are called."""

    def __init__(self, chip: Chip):
        self._chip, self._flops = chip, peak_flops(chip.name)
        self._seconds: dict[str, float] = collections.defaultdict(float)
        self._num_random = 0
        self._read: dict[int, set[_Value]] = collections.defaultdict(set)  # By pass.
        self._written: set[_Value] = set()

    def total(self, outputs: Sequence[_Value]) -> StepSeconds:
        self._keep(outputs)
        arrays = [*self._written, *(x for values in self._read.values() for x in values)]
        passes = sum(x.num_bytes for x in arrays) / self._chip.memory_bandwidth
        seconds = self._seconds
        return StepSeconds(
            seconds["products"], seconds["attention"], seconds["moves"] + passes, self._num_random
        )

    def run(self, jaxpr: core.Jaxpr, inputs: Sequence[_Value]) -> list[_Value]:
        values = dict(zip(jaxpr.invars, inputs, strict=True))
        constant = lambda v: _Value(0 if isinstance(v, core.Literal) else _bytes(v), 0, None)
        read = lambda v: values[v] if v in values else constant(v)
        for eqn in jaxpr.eqns:
            operands = [constant(v) if isinstance(v, core.Literal) else read(v) for v in eqn.invars]
            values.update(zip(eqn.outvars, self._run(eqn, operands), strict=True))
        return [constant(v) if isinstance(v, core.Literal) else read(v) for v in jaxpr.outvars]

    def _run(self, eqn: core.JaxprEqn, operands: list[_Value]) -> list[_Value]:
        name = eqn.primitive.name
        if name == "scan":
            return self._loop(eqn, operands, eqn.params["jaxpr"], eqn.params["length"])
        if name == "cond":  # Of ways by platform the last is that of GPUs.
            return self.run(eqn.params["branches"][-1].jaxpr, operands[1:])
        if (inner := eqn.params.get("jaxpr", eqn.params.get("call_jaxpr"))) is not None:
            return self.run(getattr(inner, "jaxpr", inner), operands)
        if name == "dot_general":
            return self._kernel("products", eqn, operands, _product_flops(eqn))
        if name.startswith("dot_product_attention"):
            return self._kernel("attention", eqn, operands, _attention_flops(eqn))
        if name in _MOVES:
            return self._move(eqn, operands)
        return self._fused(name, eqn, operands)

    def _kernel(self, kind: str, eqn, operands: list[_Value], flops: float) -> list[_Value]:
        self._keep(operands)
        num_bytes = sum(x.num_bytes for x in operands) + sum(map(_bytes, eqn.outvars))
        at_peak, through_memory = flops / self._flops, num_bytes / self._chip.memory_bandwidth
        self._seconds[kind] += max(at_peak, through_memory)
        return self._after(eqn, operands)

    def _move(self, eqn, operands: list[_Value]) -> list[_Value]:
        self._keep(operands)
        is_read = eqn.primitive.name in ("gather", "dynamic_slice")
        touched = eqn.outvars if is_read else eqn.invars[1:]
        num_bytes = 2 * sum(map(_bytes, touched))
        if not is_read:  # What it is put into is made before.
            num_bytes += sum(map(_bytes, eqn.outvars))
        self._seconds["moves"] += num_bytes / self._chip.memory_bandwidth
        return self._after(eqn, operands)

    def _loop(self, eqn, operands, body: core.ClosedJaxpr, length: int) -> list[_Value]:
        self._keep(operands)
        inner = _Walk(self._chip)
        inputs = [_Value(_bytes(v), 0, None) for v in body.jaxpr.invars]
        found = inner.total(inner.run(body.jaxpr, inputs))
        for kind, seconds in zip(("products", "attention", "moves"), found, strict=False):
            self._seconds[kind] += length * seconds
        self._num_random += length * found.num_random
        return self._after(eqn, operands)

    def _fused(self, name: str, eqn, operands: list[_Value]) -> list[_Value]:
        made = [_bytes(v) for v in eqn.outvars]
        widens = name == "convert_element_type" and made[0] >= operands[0].num_bytes
        if operands and (name in _FREE or widens):
            return operands[: len(made)]
        if name == "random_bits":
            self._num_random += made[0] // 4
        level = max((x.level for x in operands), default=0)
        self._read[level].update(x for x in operands if x.maker != level)
        self._keep(x for x in operands if x.maker not in (None, level))
        if not operands:  # Such as iota.
            return [_Value(0, 0, None) for _ in made]
        # Rows can be summed and used again in one pass; other sums must be complete before.
        waits = name.startswith("reduce_") and not _is_of_rows(eqn)
        # What is larger than what it is made of is made again wherever it is read.
        at_most = sum(x.num_bytes for x in set(operands))
        return [_Value(min(n, at_most), level + waits, level) for n in made]

    def _keep(self, values) -> None:
        """Has these written to memory where a pass made them."""
        self._written.update(x for x in values if x.maker is not None)

    def _after(self, eqn, operands: list[_Value]) -> list[_Value]:
        level = 1 + max((x.level for x in operands), default=0)
        return [_Value(_bytes(v), level, None) for v in eqn.outvars]


def _bytes(v: Any) -> int:
    shape, dtype = getattr(v.aval, "shape", ()), getattr(v.aval, "dtype", None)
    return math.prod(shape) * getattr(dtype, "itemsize", 4)


def _is_of_rows(eqn) -> bool:
    """Tells whether a reduction is over the last dimension alone."""
    return tuple(eqn.params.get("axes", ())) == (eqn.invars[0].aval.ndim - 1,)


def _product_flops(eqn) -> float:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    inside = math.prod(eqn.invars[0].aval.shape[dim] for dim in contracted)
    return 2 * math.prod(eqn.outvars[0].aval.shape) * inside


def _attention_flops(eqn) -> float:
    """Counts products of cuDNN's kernel: two forward, five backward; half of them if causal."""
    q, M = eqn.invars[0].aval.shape, eqn.invars[1].aval.shape[1]  # B x L x H x K.
    num_products = 5 if "bwd" in eqn.primitive.name else 2
    is_causal = "CAUSAL" in str(eqn.params["mask_type"])
    return num_products * 2 * math.prod(q) * M * (0.5 if is_causal else 1)
