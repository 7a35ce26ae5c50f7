"""How long until the first step? `python -m benchmarks.start_up` prints one JSON line.

Starts the quickstart with an empty cache, which prepares the data and compiles, and then again and
again with the cache that the first start left. A start ends when the first step's loss is printed,
which is after the second step was handed to the device. The target is 15 s for a second start.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import results, sides

TARGET_SECONDS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, *later = [_seconds_to_first_step(folder, i) for i in range(1 + args.repeats)]
    second = statistics.median(later)
    results.emit(
        "start_up",
        device=sides.platform(),
        packages=("jax", "flax"),
        shape={"config": "quickstart"},
        unit="seconds",
        ours=round(second, 2),
        peer="the first start, which prepares data and compiles",
        theirs=round(first, 2),
        ratio=round(first / second, 2),
        target={"seconds": TARGET_SECONDS},
        note="From the command to the first step.",
        slowest_seconds=round(max(later), 2),
        repeats=args.repeats,
    )


def _seconds_to_first_step(folder: str, index: int) -> float:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "launch.py", f"--workdir={folder}/{index}", "--config.log.every_steps=1"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"LM_CACHE": f"{folder}/cache"},
    )
    with process:
        if not any(line.startswith("step") for line in process.stdout):
            raise SystemExit("launch.py ended before its first step; its own message stands above")
        seconds = time.perf_counter() - start
        process.terminate()  # Finishes the step and saves.
        process.communicate()  # It may print meanwhile.
    return seconds


if __name__ == "__main__":
    main()
