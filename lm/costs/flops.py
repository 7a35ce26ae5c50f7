"""Counts floating-point operations: what a token costs, and what devices could do at best."""

import math
from collections.abc import Sequence

import jax

# Dense bfloat16 FLOP/s of one JAX device, by the start of its `device_kind` (longest match wins).
# Sources: NVIDIA's data sheets of each product (dense figures, half of those with sparsity; float16
# where there is no bfloat16); Google Cloud's "TPU versions" pages, where a v2 or v3 device is one
# core, half of a chip.
_PEAKS = {
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA B200": 2250e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA L4": 121e12,
    "NVIDIA L40S": 362e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "TPU v2": 22.5e12,
    "TPU v3": 61.5e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Returns a device's dense bfloat16 FLOP/s; None where no figure is known, as for CPUs."""
    return _PEAKS.get(known_name(device_kind))


def known_name(device_kind: str) -> str | None:
    """Returns the name by which figures of a device are known here; None where there are none."""
    matches = [name for name in _PEAKS if device_kind.startswith(name)]
    return max(matches, key=len, default=None)


def total_peak_flops(devices: Sequence[jax.Device]) -> float | None:
    """Returns `peak_flops` of all devices together; None if any is unknown."""
    peaks = [peak_flops(device.device_kind) for device in devices]
    return None if None in peaks else sum(peaks)


def train_flops(matrices: Sequence[tuple[int, int]], attention: Sequence[tuple[int, ...]]) -> float:
    """Counts forward and backward FLOPs of a row (Chowdhery et al. 2022, appendix B).

    For a decoder of N parameters, that is 6N + 12 x layers x d x T a token. Every parameter counts,
    embeddings too, because the tied one is multiplied as the output; d is heads x head width.

    Args:
      matrices: how many parameters, and how many tokens of the row they are multiplied with.
      attention: layers, d, queries and keys of the row.
    """
    # 2 for a multiply and an add, times 3: one forward and two backward, by input and by weight.
    products = sum(6 * size * num_tokens for size, num_tokens in matrices)
    # 6 for each of QK and AV. Masked keys count too, by convention, so that figures compare.
    return products + sum(12 * math.prod(counts) for counts in attention)


def mfu(tokens_per_second: float, flops_per_token: float, peak: float) -> float:
    """Returns model FLOPs utilisation: the share of the peak that the model's arithmetic took."""
    return tokens_per_second * flops_per_token / peak
