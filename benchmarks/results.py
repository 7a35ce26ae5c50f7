"""A measurement as one JSON line of a common shape, and many of them as a table."""

import importlib.metadata
import json
import os
import pathlib
import platform
from collections.abc import Iterable, Sequence
from typing import Any

# A measurement is in one of these, and "peer_" + the same holds the peer's.
UNITS = ("seconds", "tokens_per_second", "bytes")
AT_MOST = ("seconds", "bytes")  # Of a target: the less, the better.
KEYS = (
    "benchmark",
    "device",
    "processor",
    "cores",
    "load_average",
    "versions",
    "shape",
    "peer",
    "ratio",
    "target",
    "note",
)
COLUMNS = ("name", "shape", "ours", "peer", "ratio", "target", "note")


def emit(
    benchmark: str,
    *,
    device: str,
    packages: Iterable[str],
    shape: dict[str, Any],
    unit: str,
    ours: float,
    peer: str | None,
    theirs: float | None,
    ratio: float | None,
    target: dict[str, float],
    note: str,
    **more: Any,
) -> None:
    """Prints one measurement.

    Args:
      benchmark: the name of the program, and after a slash that of a case.
      device: what it ran on, as JAX names the device, or its platform.
      packages: whose versions matter.
      shape: sizes.
      unit: of `ours` and `theirs`, one of `UNITS`.
      peer: what it is compared with; None for nothing.
      ratio: how many times as good as the peer: above 1, we are faster or take less memory.
      target: what must be reached, by key: at least so much, of seconds and bytes at most. {} where
        there is none for this shape on this device.
      note: what a reader of the table must know.
      **more: what else was measured.
    """
    result = {
        "benchmark": benchmark,
        "device": device,
        "processor": processor(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in packages},
        "shape": shape,
        unit: ours,
        "peer": peer,
        f"peer_{unit}": theirs,
        "ratio": ratio,
        "target": target,
        "note": note,
        **more,
    }
    assert unit in UNITS and target.keys() <= result.keys()
    print(json.dumps(result), flush=True)


def rounded(value: float) -> float:
    """Four digits: more than any measurement here has."""
    return float(f"{value:.4g}")


def met(result: dict[str, Any]) -> bool:
    """Whether a measurement reaches its target."""
    return all(
        result[key] <= wanted if key in AT_MOST else result[key] >= wanted
        for key, wanted in result["target"].items()
    )


def row(result: dict[str, Any]) -> list[str]:
    """The cells of a measurement, one for each of `COLUMNS`."""
    if "ok" in result:
        return _check_row(result)
    unit = next(unit for unit in UNITS if unit in result)
    goal = wanted(result)
    verdict = f": {'met' if met(result) else 'missed'}" if goal else ""
    return [
        result["benchmark"],
        " ".join(f"{name}={value}" for name, value in result["shape"].items()),
        shown(unit, result[unit]),
        shown(unit, result[f"peer_{unit}"]),
        shown("ratio", result["ratio"]),
        goal + verdict,
        " ".join(filter(None, (result["note"], result["peer"] and f"Peer: {result['peer']}."))),
    ]


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of `COLUMNS` as aligned text, which is Markdown too."""
    rule = ["-" * len(name) for name in COLUMNS]
    widths = [max(map(len, column)) for column in zip(COLUMNS, rule, *rows, strict=True)]
    lines = (
        " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()
        for cells in (COLUMNS, rule, *rows)
    )
    return "\n".join(lines)


def wanted(result: dict[str, Any]) -> str:
    """What a measurement has to reach; "" where there is nothing."""
    return ", ".join(
        f"{shown(key, value)} {'at most' if key in AT_MOST else 'at least'}"
        for key, value in result["target"].items()
    )


def _check_row(result: dict[str, Any]) -> list[str]:
    """The cells of a line of `benchmarks.check_kernels`."""
    said = "right" if result["ok"] else f"wrong: {result.get('error', result.get('errors'))}"
    values = [
        shown(*pair)
        for pair in (
            ("seconds", result.get("seconds")),
            ("seconds", result.get("peer_seconds")),
            ("ratio", result.get("ratio")),
        )
    ]
    return [result["benchmark"], f"{result['case']}, {result['kernel']}", *values, "", said]


def shown(key: str, value: float | None) -> str:
    """A number of this key, or unit, with its unit; "" for None."""
    if value is None:
        return ""
    if key == "bytes":
        return f"{value / 1e6:,.0f} MB"
    if key == "seconds":
        return f"{value:.3g} s"
    if key == "tokens_per_second":
        return f"{value:,.0f} tokens/s"
    return f"{value:.2f}" if key == "ratio" else f"{key} {value:.2f}"


def processor() -> str:
    """As the kernel names it; the machine's kind where it does not."""
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
