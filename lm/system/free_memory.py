"""Says how much memory there is for arrays."""

import pathlib

import jax


def free_bytes() -> int | None:
    """Returns the bytes that are free on the fullest device; of CPUs, on this machine.

    None where nothing says it.
    """
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(one and "bytes_limit" in one for one in stats):
        return min(one["bytes_limit"] - one["bytes_in_use"] for one in stats if one)
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return None
    lines = (line.split() for line in meminfo.read_text().splitlines())
    return next((int(line[1]) * 1024 for line in lines if line[0] == "MemAvailable:"), None)
