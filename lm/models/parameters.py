"""Parameters as a tree of arrays, and which dimensions of a kernel its product sums over."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any  # A tree of arrays, in dicts by name.
TABLES = ("token_embedding", "output_embedding", "output_bias")  # With a row for each token.


def num_params(params: Params) -> int:
    """Counts the numbers of a tree."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(params))


class KernelDims(NamedTuple):
    """Numbers of a kernel's dimensions, in their order: of layers, inputs and outputs."""

    layers: int
    inputs: int
    outputs: int


def kernel_dims(path: tuple[str, ...], ndim: int) -> KernelDims:
    """Tells the dimensions of the `Dense` kernel at this path of a parameter tree.

    `layers/attention/out/kernel`, N x H x K x D: 1, 2, 1. `pooler/kernel`, D x D: 0, 1, 1.
    """
    layers = int("layers" in path)
    inputs = 2 if path[-2] == "out" and ndim - layers == 3 else 1  # Attention's reads heads.
    return KernelDims(layers, inputs, ndim - layers - inputs)


TRANSPOSED = "transposed_kernel"  # In place of "kernel"; see `transposed`.


def transposed(kernel: jax.Array, num_in_dims: int) -> jax.Array:
    """Makes a matrix of outputs x inputs of a `Dense` kernel, in place of which it may stand."""
    return kernel.reshape(math.prod(kernel.shape[:num_in_dims]), -1).T


def map_decoding_matrices(params: Params, function: Callable[[Any], Any]) -> Params:
    """Applies a function to the matrices of decoder layers and the table that makes logits.

    Args:
      params: of `kv_cache.unstack_layers`, or such of which some matrices were mapped already.
      function: matrix -> what stands in its place; what it gives back as it is stays the same tree.
    """
    table = "output_embedding" if _has(params, "output_embedding") else "token_embedding"

    def convert(name: str, tree: Any) -> Any:
        if isinstance(tree, dict):
            found = {name: convert(name, child) for name, child in tree.items()}
            return tree if all(found[name] is tree[name] for name in tree) else found
        if isinstance(tree, list):
            found = [convert(name, child) for child in tree]
            return tree if all(a is b for a, b in zip(found, tree, strict=True)) else found
        return function(tree) if name in (TRANSPOSED, table) else tree

    return convert("", params)


def _has(tree: Any, name: str) -> bool:
    return isinstance(tree, dict) and (
        name in tree or any(_has(child, name) for child in tree.values())
    )
