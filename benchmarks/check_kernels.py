"""Do this device's kernels give what they should, and how fast?

`python -m benchmarks.check_kernels` prints one JSON line a case: each attention kernel of the
platform beside the einsum reference, for the output and all gradients, and products of 8-bit floats
beside plain ones. It exits with 1 if any differs by more than rounding does, or cannot run.

Errors are |found - expected| / |expected|, where the reference computes in float32. On a CPU shapes
are small, and times mean little.
"""

import argparse
import functools
import importlib.metadata
import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm.models import kernels, masks
from lm.models.attention import MADE_FOR
from lm.models.masks import AttentionMask
from lm.models.matmuls import fp8_matmul
from lm.parallel.mesh import make_mesh

# Of bfloat16 itself: the reference computed in it differs from float32 by 0.003 to 0.008 here.
_BOUND = {"bfloat16": 0.02, "float32": 1e-4}
_FP8_BOUND = 0.08  # Gradients have two bits of mantissa.
Measure = Callable[[], dict[str, Any]]
SHAPE = ("batch_size", "seq_len", "num_heads", "head_dim")


class Case(NamedTuple):
    """What is visible, and who can compute it.

    kv_heads_share: query heads of each key head.
    biased: with relative positions, and so without a scale, as in T5.
    is_cut: each device has some of the rows.
    """

    seen: AttentionMask
    kernels: tuple[str, ...]
    kv_heads_share: int = 1
    biased: bool = False
    is_cut: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    is_cpu = jax.default_backend() == "cpu"
    sizes = (2, 64, 4, 16) if is_cpu else (16, 1024, 12, 64)
    for name, value in zip(SHAPE, sizes, strict=True):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    dtype = jnp.dtype("float32" if is_cpu else "bfloat16")
    checks = {
        (name, kernel): functools.partial(attend, kernel, case, args, dtype)
        for name, case in cases(args).items()
        for kernel in case.kernels
        if kernel in MADE_FOR[jax.default_backend()]
    }
    checks["products of 8-bit floats", "fp8"] = functools.partial(products, args, dtype)
    with ThreadPoolExecutor() as pool:  # Most of the time compilation takes, each on its own core.
        compiled = {key: pool.submit(check) for key, check in checks.items()}
    wrong = [report(*key, args, lambda f=future: f.result()()) for key, future in compiled.items()]
    sys.exit(any(wrong))


def cases(args: argparse.Namespace) -> dict[str, Case]:
    """By name; see `Case`."""
    B, L = args.batch_size, args.seq_len
    lengths_B = np.random.default_rng(0).integers(L // 4, L, B)
    padded_BL = (np.arange(L)[None] < lengths_B[:, None]).astype(np.int32)
    packed_BL = np.sort(np.random.default_rng(1).integers(1, 6, (B, L)), axis=1).astype(np.int32)
    packed_BL[: B // 2, -L // 8 :] = 0
    prefix_BL = np.arange(L)[None] < np.full((B, 1), L // 8)
    cudnn, splash, all_kernels = ("cudnn",), ("splash",), ("cudnn", "splash", "blocked")
    lengths = ("cudnn", "cudnn_lengths")
    found = {
        "one document": Case(masks.causal(None), (*all_kernels, "cudnn_lengths")),
        "packed": Case(masks.causal(packed_BL), all_kernels),
        "packed, shared key heads": Case(masks.causal(packed_BL), all_kernels, kv_heads_share=4),
        "packed, window": Case(masks.causal(packed_BL, window=L // 8), all_kernels),
        "packed, both sides": Case(masks.itself(packed_BL), (*cudnn, *splash)),
        "packed, prefix": Case(masks.causal(packed_BL, prefix_BL), cudnn),
        "packed, relative positions": Case(masks.itself(packed_BL), cudnn, biased=True),
        "padded": Case(masks.causal(padded_BL), (*lengths, *splash, "blocked")),
        "padded, window": Case(masks.causal(padded_BL, window=L // 8), (*lengths, *splash)),
        "padded, both sides": Case(masks.itself(padded_BL), (*lengths, *splash)),
        "padded, relative positions": Case(masks.itself(padded_BL), lengths, biased=True),
        "an odd length": Case(masks.causal(packed_BL[:, :-1]), all_kernels),
    }
    if jax.device_count() > 1:
        found["packed, rows cut over devices"] = Case(
            masks.causal(packed_BL), all_kernels, is_cut=True
        )
    return found


def attend(kernel: str, case: Case, args: argparse.Namespace, dtype) -> Measure:
    """Compiles the kernel and the reference; see `compared`."""
    B, H, K = args.batch_size, args.num_heads, args.head_dim
    ids_BL = case.seen.segment_ids_BL
    L = args.seq_len if ids_BL is None else ids_BL.shape[1]
    shapes = [(B, L, heads, K) for heads in (H, H // case.kv_heads_share, H // case.kv_heads_share)]
    inputs = [jnp.asarray(noise(*shape, seed=i), dtype) for i, shape in enumerate(shapes)]
    do_BLHK = jnp.asarray(noise(B, L, H, K, seed=4), dtype)
    if ids_BL is not None:  # What padding gives is a kernel's own affair.
        do_BLHK *= jnp.asarray(ids_BL > 0, dtype)[:, :, None, None]
    if case.biased:
        inputs = [inputs[0] * K**-0.5, *inputs[1:], jnp.asarray(noise(H, L, L, seed=5))]

    # All arrays are arguments: XLA would spend minutes on folding constants.
    def gradients(kernel, inputs, do_BLHK, seen):
        def total(q_BLHK, k_BMGK, v_BMGK, *bias):
            more = dict(bias_HLM=bias[0], scale=1.0) if bias else {}
            o_BLHK = kernels.KERNELS[kernel](q_BLHK, k_BMGK, v_BMGK, visible=seen, **more)
            return jnp.sum((o_BLHK * do_BLHK).astype(jnp.float32)), o_BLHK * (do_BLHK != 0)

        positions = tuple(range(len(inputs)))
        grads, o_BLHK = jax.grad(total, argnums=positions, has_aux=True)(*inputs)
        return dict(zip(("o", "dq", "dk", "dv", "dbias"), (o_BLHK, *grads), strict=False))

    given = inputs, do_BLHK, case.seen
    with jax.default_matmul_precision("highest"):
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), inputs)
        expected = jax.jit(functools.partial(gradients, "einsum"))(exact, *given[1:])
    ours = functools.partial(gradients, kernel)
    if not case.is_cut:
        return compared(ours, "einsum", given, expected, gradients)
    mesh = make_mesh(strategy="jit", data=-1, fsdp=1, tensor=1, sequence=1)
    with jax.set_mesh(mesh):
        rows = NamedSharding(mesh, P(("data", "fsdp")))
        return compared(ours, "einsum", jax.device_put(given, rows), expected, gradients)


def products(args: argparse.Namespace, dtype) -> Measure:
    """Compiles a layer's product and its two gradients, and plain ones; see `compared`."""
    N, D = args.batch_size * args.seq_len, args.num_heads * args.head_dim
    xwg = [noise(N, D, seed=1), noise(D, 4 * D, seed=2), noise(N, 4 * D, seed=3)]
    xwg = [jnp.asarray(x, dtype) for x in xwg]

    def gradients(matmul, x_ND, w_DF, dy_NF):
        y_NF, backward = jax.vjp(fp8_matmul if matmul == "fp8" else jnp.matmul, x_ND, w_DF)
        return dict(zip(("y", "dx", "dw"), (y_NF, *backward(dy_NF)), strict=True))

    expected = gradients("plain", *(x.astype(jnp.float32) for x in xwg))
    return compared(
        functools.partial(gradients, "fp8"), "plain", xwg, expected, gradients, _FP8_BOUND
    )


def compared(
    function: Callable,
    peer: str,
    inputs: Sequence[Any],
    expected: dict[str, jax.Array],
    gradients: Callable,
    bound: float | None = None,
) -> Measure:
    """() -> errors of a function beside their bound, seconds and scratch bytes of it and its peer.

    Both are compiled already.
    """
    ours = jax.jit(function).lower(*inputs).compile()
    theirs = jax.jit(functools.partial(gradients, peer)).lower(*inputs).compile()
    dtype = str(jax.tree.leaves(inputs)[0].dtype)
    bound = _BOUND[dtype] if bound is None else bound

    def measure():
        found = ours(*inputs)
        errors = {name: float(f"{distance(found[name], expected[name]):.3g}") for name in expected}
        seconds, peer_seconds = fastest(ours, inputs), fastest(theirs, inputs)
        return {
            "ok": all(error <= bound for error in errors.values()),
            "errors": errors,
            "bound": bound,
            "dtype": dtype,
            "seconds": round(seconds, 7),
            "peer": peer,
            "peer_seconds": round(peer_seconds, 7),
            "ratio": round(peer_seconds / seconds, 3),
            "scratch_bytes": ours.memory_analysis().temp_size_in_bytes,
            "peer_scratch_bytes": theirs.memory_analysis().temp_size_in_bytes,
        }

    return measure


def report(case: str, kernel: str, args: argparse.Namespace, measure: Measure) -> bool:
    """Prints one line; True if the case is wrong or cannot run."""
    try:
        result = measure()
    except Exception as error:  # The other cases are worth knowing, too.
        result = {"ok": False, "error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
    line = {
        "benchmark": "check_kernels",
        "case": case,
        "kernel": kernel,
        "device": jax.devices()[0].device_kind,
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")},
        "shape": {name: getattr(args, name) for name in SHAPE},
        **result,
    }
    print(json.dumps(line), flush=True)
    return not result["ok"]


def noise(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def distance(found: jax.Array, expected: jax.Array) -> float:
    """NaN counts as infinitely far."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    return float(error) if np.isfinite(error) else float("inf")


def fastest(function: Callable, inputs: Sequence[Any], rounds: int = 5) -> float:
    """Seconds of the quickest of some rounds of ten calls."""
    jax.block_until_ready(function(*inputs))
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(10):
            result = function(*inputs)
        jax.block_until_ready(result)
        times.append((time.perf_counter() - start) / 10)
    return min(times)


if __name__ == "__main__":
    main()
