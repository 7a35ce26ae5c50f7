"""How long until the first step? `python -m benchmarks.start_up` prints JSON lines.

Starts the quickstart with an empty cache, which prepares the data and compiles, and then again and
again with the cache that the first start left. A start ends when the first step's loss is printed,
which is after the second step was handed to the device. Then it takes the time of what trains
nothing: importing the program, and printing a config. Medians of wall and processor seconds.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from benchmarks import results, sides

FIRST_SECONDS, SECOND_SECONDS = 15, 4
# What answers at once, and in how many seconds.
AT_ONCE = {"import": ("-c", "import launch"), "print_config": ("launch.py", "--print_config")}
AT_ONCE_SECONDS = 0.7
NUM_AT_ONCE = 7


class Start(NamedTuple):
    seconds: float
    processor_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        first, *later = [_to_first_step(folder, i) for i in range(1 + args.repeats)]
    _emit("first", [first], FIRST_SECONDS, "The quickstart, from the command to the first step.")
    _emit("second", later, SECOND_SECONDS, "The same, its data prepared and its programs compiled.")
    for name, arguments in AT_ONCE.items():
        starts = [_to_end(arguments) for _ in range(NUM_AT_ONCE)]
        _emit(name, starts, AT_ONCE_SECONDS, " ".join(("python", *arguments)) + ".")


def _emit(case: str, starts: list[Start], target_seconds: float, note: str) -> None:
    seconds, processor_seconds = zip(*starts, strict=True)
    results.emit(
        f"start_up/{case}",
        device=sides.platform(),
        packages=("jax", "flax"),
        shape={"starts": len(starts)},
        unit="seconds",
        ours=round(statistics.median(seconds), 2),
        peer=None,
        theirs=None,
        ratio=None,
        target={"seconds": target_seconds},
        note=note,
        processor_seconds=round(statistics.median(processor_seconds), 2),
        slowest_seconds=round(max(seconds), 2),
    )


def _to_first_step(folder: str, index: int) -> Start:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "launch.py", f"--workdir={folder}/{index}", "--config.log.every_steps=1"],
        stdout=subprocess.PIPE,
        text=True,
        env=_environment() | {"LM_CACHE": f"{folder}/cache"},
    )
    with process:
        if not any(line.startswith("step") for line in process.stdout):
            raise SystemExit("launch.py ended before its first step; its own message stands above")
        found = Start(time.perf_counter() - start, _processor_seconds(process.pid))
        process.terminate()  # Finishes the step and saves.
        process.communicate()  # It may print meanwhile.
    return found


def _to_end(arguments: tuple[str, ...]) -> Start:
    start, before = time.perf_counter(), os.times()
    command = [sys.executable, *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, env=_environment(), check=True)
    after = os.times()
    processor_seconds = sum(after[2:4]) - sum(before[2:4])  # Of children, user and system.
    return Start(time.perf_counter() - start, processor_seconds)


def _environment() -> dict[str, str]:
    """This one's, in which Python keeps the bytecode of what it imports, as it does by default."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _processor_seconds(pid: int) -> float:
    """What a process and those that it waited for have used, by proc(5)."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
