"""What does the cross-entropy in blocks save? `python -m benchmarks.loss` prints two JSON lines.

The peer is the plain one, which has the logits of all tokens at once. Both give the loss and its
gradients by the hidden states and by the table of a vocabulary of 262,144. What they need besides
is asked of the compiler, so nothing of that size has to run; time is taken at a size that a CPU
bears, and on an accelerator at the full one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import results
from lm.losses.likelihood import cross_entropy, output_cross_entropy
from lm.models.layers import LazyLogits
from lm.system import allocator

TARGET = 8.0


def main() -> None:
    args = parse()
    on_cpu = jax.default_backend() == "cpu"
    dtype = "float32" if on_cpu else "bfloat16"
    shape = {
        name: getattr(args, name) for name in ("vocab_size", "model_dim", "seq_len", "batch_size")
    }
    gradients = {
        name: jax.jit(jax.value_and_grad(make_loss(num_blocks), argnums=(0, 1)))
        for name, num_blocks in (("ours", args.num_blocks), ("peer", 0))
    }
    common: dict[str, Any] = dict(
        device=jax.devices()[0].device_kind,
        packages=("jax",),
        peer="lm.losses.likelihood.cross_entropy of all logits",
        num_blocks=args.num_blocks,
        dtype=dtype,
    )
    bytes_ = temporary_bytes(gradients, shape, dtype)
    results.emit(
        "loss/memory",
        shape=shape,
        unit="bytes",
        ours=bytes_["ours"],
        theirs=bytes_["peer"],
        ratio=round(bytes_["peer"] / bytes_["ours"], 2),
        target={"ratio": TARGET},
        note=f"What is needed besides arguments and results, in {args.num_blocks} blocks.",
        **common,
    )
    if on_cpu:
        shape |= dict(vocab_size=args.timed_vocab_size, model_dim=args.timed_model_dim)
    seconds = seconds_of_rounds(gradients, shape, dtype, args.rounds)
    pairs = zip(seconds["ours"], seconds["peer"], strict=True)
    results.emit(
        "loss/time",
        shape=shape,
        unit="seconds",
        ours=results.rounded(statistics.median(seconds["ours"])),
        theirs=results.rounded(statistics.median(seconds["peer"])),
        ratio=round(statistics.median(theirs / ours for ours, theirs in pairs), 3),
        target={},
        note=f"In {args.num_blocks} blocks.",
        rounds=args.rounds,
        **common,
    )


def temporary_bytes(
    gradients: dict[str, Callable], shape: dict[str, int], dtype: str
) -> dict[str, int]:
    """What each needs besides arguments and results, as the compiler plans it."""
    abstract = jax.eval_shape(lambda: arguments(shape, dtype))
    return {
        name: gradient.lower(*abstract).compile().memory_analysis().temp_size_in_bytes
        for name, gradient in gradients.items()
    }


def seconds_of_rounds(
    gradients: dict[str, Callable], shape: dict[str, int], dtype: str, rounds: int
) -> dict[str, list[float]]:
    """How long each takes, in turn."""
    inputs = jax.jit(lambda: arguments(shape, dtype))()
    seconds: dict[str, list[float]] = {name: [] for name in gradients}
    for r in range(1 + rounds):
        for name in list(gradients)[:: 1 if r % 2 else -1]:
            start = time.perf_counter()
            jax.block_until_ready(gradients[name](*inputs))
            seconds[name].append(time.perf_counter() - start)
    return {name: found[1:] for name, found in seconds.items()}  # The first compiles.


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab_size", type=int, default=262144)
    parser.add_argument("--model_dim", type=int, default=1024)
    parser.add_argument("--seq_len", type=int, default=2048)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--num_blocks", type=int, default=16)
    parser.add_argument("--timed_vocab_size", type=int, default=32768, help="on a CPU")
    parser.add_argument("--timed_model_dim", type=int, default=256, help="on a CPU")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def make_loss(num_blocks: int) -> Callable:
    """(x_BLD, table_VD, targets_BL, weights_BL) -> the summed loss; 0 blocks for the plain one."""

    def loss(x_BLD, table_VD, targets_BL, weights_BL):
        output = LazyLogits(x_BLD, table_VD)
        if num_blocks:
            sums = output_cross_entropy(output, targets_BL, weights_BL, num_blocks=num_blocks)
        else:
            sums = cross_entropy(output.logits(), targets_BL, weights_BL)
        return sums["loss"]

    return loss


def arguments(shape: dict[str, int], dtype: str) -> tuple[jax.Array, ...]:
    """Random hidden states in `dtype`, a float32 table, targets and weights of 1."""
    V, D, L, B = (shape[name] for name in ("vocab_size", "model_dim", "seq_len", "batch_size"))
    for_x, for_table, for_targets = jax.random.split(jax.random.key(0), 3)
    x_BLD = jax.random.normal(for_x, (B, L, D), jnp.dtype(dtype))
    table_VD = 0.02 * jax.random.normal(for_table, (V, D))
    return x_BLD, table_VD, jax.random.randint(for_targets, (B, L), 0, V), jnp.ones((B, L))


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
