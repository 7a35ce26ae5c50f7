"""Published figures of accelerators, and the least time that a step can take on them."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from lm.costs.collectives import Collectives, sent_bytes
from lm.costs.flops import known_name, peak_flops


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device."""

    name: str  # As `flops.peak_flops` knows it.
    memory_bytes: float  # Of its HBM.
    memory_bandwidth: float  # Of its HBM, in bytes/s.
    link_bandwidth: float  # bytes/s that all its links together can send to its domain.
    domain: int  # How many devices such links join.
    network_bandwidth: float | None = None  # bytes/s that it can send beyond; None: unknown.


# Google gives bandwidths of links for both directions together, NVIDIA of NVLink too: half is sent.
CHIPS = (
    # 32 GiB, 1200 GB/s, pods of 4,096: docs.cloud.google.com/tpu/docs/v4. Six links of 50 GB/s:
    # Jouppi et al. 2023 (arXiv 2304.01433), table 4.
    Chip("TPU v4", 32 * 2**30, 1200e9, 300e9, 4096),
    # 16 GB, 819 GB/s, 400 GB/s both ways, pods of 256: docs.cloud.google.com/tpu/docs/v5e.
    Chip("TPU v5e", 16e9, 819e9, 200e9, 256),
    # 95 GB, 2765 GB/s, 1200 GB/s both ways, pods of 8,960; 50 Gbit/s a chip between pods:
    # docs.cloud.google.com/tpu/docs/v5p-training.
    Chip("TPU v5p", 95e9, 2765e9, 600e9, 8960, 50e9 / 8),
    # 32 GB, 1638 GB/s, 800 GB/s both ways, pods of 256: docs.cloud.google.com/tpu/docs/v6e.
    Chip("TPU v6e", 32e9, 1638e9, 400e9, 256),
    # 80 GB, 2039 GB/s, NVLink 600 GB/s: data sheet of the A100 80GB SXM. Eight to a node, with a
    # 200 Gbit/s adapter each: data sheet of the DGX A100.
    Chip("NVIDIA A100", 80e9, 2039e9, 300e9, 8, 200e9 / 8),
    # 80 GB, 3.35 TB/s, NVLink 900 GB/s: data sheet of the H100 SXM. Eight to a node, with a
    # 400 Gbit/s adapter each: data sheet of the DGX H100.
    Chip("NVIDIA H100", 80e9, 3.35e12, 450e9, 8, 400e9 / 8),
    # 141 GB, 4.8 TB/s, NVLink 900 GB/s: data sheet of the H200 SXM. Nodes as above: DGX H200.
    Chip("NVIDIA H200", 141e9, 4.8e12, 450e9, 8, 400e9 / 8),
    # Eight GPUs of together 1,440 GB, 64 TB/s and NVLink 14.4 TB/s, with a 400 Gbit/s adapter
    # each: data sheet of the DGX B200.
    Chip("NVIDIA B200", 180e9, 8e12, 900e9, 8, 400e9 / 8),
)


def chip_of(device_kind: str) -> Chip | None:
    """Returns the chip that JAX calls so; None where only its arithmetic is known, or nothing."""
    name = known_name(device_kind)
    return next((chip for chip in CHIPS if chip.name == name), None)


@dataclasses.dataclass(frozen=True)
class StepTime:
    """Seconds of a step at published peaks, which no program reaches."""

    compute_seconds: float  # The arithmetic.
    memory_seconds: float  # What must pass through HBM.
    # Collectives over data and fsdp. They move parameters and gradients, which wait for no
    # activation, so a good schedule runs them beside the arithmetic.
    hidden_seconds: float
    waiting_seconds: float  # Collectives over tensor and sequence, for which the next layer waits.

    @property
    def seconds(self) -> float:
        """Adds up the largest of what can go on at once, and what nothing can hide."""
        at_once = max(self.compute_seconds, self.memory_seconds, self.hidden_seconds)
        return at_once + self.waiting_seconds


def step_time(
    chip: Chip,
    *,
    flops: float,
    memory_traffic_bytes: float,
    collectives: Collectives,
    axis_sizes: Mapping[str, int],
) -> StepTime | None:
    """Returns the least time of a step; None where it needs a network of unknown bandwidth.

    Args:
      chip: all devices are of this kind.
      flops, memory_traffic_bytes: of one device.
      collectives: of a step, see `collectives.collectives_of`.
      axis_sizes: of the mesh; devices that follow each other in its order are neighbours.
    """
    seconds = {False: 0.0, True: 0.0}
    for (kind, axes), traffic in collectives.items():
        bandwidth = _bandwidth(chip, axes, axis_sizes)
        if bandwidth is None:
            return None
        num_devices = math.prod(axis_sizes[axis] for axis in axes)
        sent = sent_bytes(kind, traffic.payload_bytes, num_devices)
        seconds[not {"tensor", "sequence"}.isdisjoint(axes)] += sent / bandwidth
    return StepTime(
        flops / peak_flops(chip.name),
        memory_traffic_bytes / chip.memory_bandwidth,
        seconds[False],
        seconds[True],
    )


def _bandwidth(chip: Chip, axes: tuple[str, ...], axis_sizes: Mapping[str, int]) -> float | None:
    """Returns the bytes/s that each device of a group can send."""
    shape = tuple(axis_sizes.values())
    ids = np.arange(math.prod(shape)).reshape(shape)
    group = ids[tuple(slice(None) if axis in axes else 0 for axis in axis_sizes)]
    neighbours = int((group < chip.domain).sum())
    if neighbours == group.size:
        return chip.link_bandwidth
    if chip.network_bandwidth is None:
        return None
    # What leaves a domain leaves it by the adapters of all members of the group there (one ring
    # each, as NCCL builds them), so a group of which more members live together is faster.
    return min(chip.link_bandwidth, neighbours * chip.network_bandwidth)
