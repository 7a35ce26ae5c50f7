"""Finds the devices of this machine without starting JAX, and divides them among runs."""

import dataclasses
import glob
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

from lm.errors import UserError
from lm.system import supervisor

_TPU_BOUNDS = {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,4,1"}  # Chips as x, y, z of a host.


@dataclasses.dataclass(frozen=True)
class Slot:
    """The devices that one run has to itself."""

    name: str  # For people.
    environment: Mapping[str, str]  # Variables that show a process these accelerators alone.
    cores: frozenset[int] = frozenset()  # Of the CPU that it may use; all where empty.

    def start(self, command: list[str], **settings) -> subprocess.Popen:
        """Starts a process on these devices, out of reach of this terminal's ctrl-C.

        It is killed when this process ends, however that happens.
        """
        return subprocess.Popen(
            supervisor.dying_with_this(command, self.cores),
            env=os.environ | self.environment,
            start_new_session=True,
            **settings,
        )


def slots(num_runs: int, *, num_parallel: int, devices_per_run: int) -> list[Slot]:
    """Divides this machine into equal shares, for at most `num_runs` at once.

    Args:
      num_runs: there are no more shares than runs.
      num_parallel: runs at a time; 0 for as many as the accelerators allow, and one on a CPU.
      devices_per_run: GPUs, TPU chips or, without any, cores; 0 for an equal share of them.

    Raises:
      UserError: there are not so many devices.
    """
    kind, devices = _devices()
    for key, value in (("num_parallel", num_parallel), ("devices_per_run", devices_per_run)):
        if value < 0:
            raise UserError(f"launcher.{key}={value} must be at least 0")
    if not num_runs:
        return []
    each, parallel = devices_per_run, num_parallel
    if not parallel:
        parallel = 1 if kind == "core" else len(devices) // (each or 1)
    parallel = min(parallel, num_runs)
    each = each or len(devices) // max(parallel, 1)
    if each < 1 or not 1 <= parallel * each <= len(devices):
        raise UserError(
            f"launcher.num_parallel={num_parallel} with launcher.devices_per_run={devices_per_run} "
            f"needs more than the {len(devices)} {kind}s of this machine; lower one of them"
        )
    if kind == "TPU chip" and each not in _TPU_BOUNDS:
        raise UserError(
            f"launcher.devices_per_run={each}: a process can have 1, 2, 4 or 8 TPU chips"
        )
    return [_slot(kind, devices[i * each : (i + 1) * each], len(devices)) for i in range(parallel)]


def _devices() -> tuple[str, list[str]]:
    """Finds the kind of device that JAX would use here, and the name of each."""
    # By files and packages: JAX would take the devices for this process as long as it lives.
    platforms = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    if platforms in ("", "tpu") and chips and _installed("libtpu"):
        return "TPU chip", [str(i) for i in range(len(chips))]
    if platforms in ("", "cuda", "gpu") and _installed("jax_cuda12_plugin", "jax_cuda13_plugin"):
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if visible is None:
            gpus = [str(i) for i in range(len(glob.glob("/dev/nvidia[0-9]*")))]
        else:
            gpus = [name for name in visible.split(",") if name]
        if gpus:
            return "GPU", gpus
    if sys.platform == "linux":
        return "core", [str(core) for core in sorted(os.sched_getaffinity(0))]
    return "core", [str(core) for core in range(os.cpu_count() or 1)]


def _installed(*packages: str) -> bool:
    return any(importlib.util.find_spec(name) for name in packages)


def _slot(kind: str, devices: list[str], num_all: int) -> Slot:
    listed = ",".join(devices)
    name = f"{kind}{'s' if len(devices) > 1 else ''} {listed}"
    if kind == "GPU":
        return Slot(name, {"CUDA_VISIBLE_DEVICES": listed})
    if kind == "TPU chip":
        # As in jax/_src/test_multiprocess.py, but that each process is a slice by itself.
        port = str(8476 + int(devices[0]))  # Another for each process of this host.
        environment = {
            "TPU_VISIBLE_CHIPS": listed,
            "TPU_CHIPS_PER_PROCESS_BOUNDS": _TPU_BOUNDS[len(devices)],
            "TPU_PROCESS_BOUNDS": "1,1,1",
            "TPU_PROCESS_ADDRESSES": f"localhost:{port}",
            "TPU_PROCESS_PORT": port,
            "CLOUD_TPU_TASK_ID": "0",
            "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        }
        return Slot(name, {} if len(devices) == num_all else environment)
    if len(devices) == num_all or sys.platform != "linux":
        return Slot(name, {})
    # XLA makes as many threads as NPROC says, or else as there are cores for the process.
    return Slot(name, {"NPROC": str(len(devices))}, frozenset(map(int, devices)))
