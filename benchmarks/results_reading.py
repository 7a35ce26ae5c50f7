"""How fast are many runs read? `python -m benchmarks.results_reading` prints a JSON line a command.

The target is ten seconds for 1,000 runs of 1,000 lines, by the command as a user starts it. The
peer is the same files with each line parsed, and nothing made of them.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from benchmarks import results

TARGET_SECONDS = 10
COMMANDS = {
    "overview": ("overview",),
    "best": ("best",),
    "report": ("report", "--output={folder}/report.html"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num_runs", type=int, default=1000)
    parser.add_argument("--num_lines", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [write_run(pathlib.Path(folder), i, args.num_lines) for i in range(args.num_runs)]
        ways = {
            name: lambda command=command: _call(command, folder)
            for name, command in COMMANDS.items()
        } | {"parsed": lambda: _parse(files)}
        seconds, cpu_seconds = ({name: [] for name in ways} for _ in range(2))
        for _ in range(args.repeats):
            for name, way in ways.items():  # In turn, so that a noisy minute hits all of them.
                for times, took in zip((seconds, cpu_seconds), _time(way), strict=True):
                    times[name].append(took)
        num_bytes = sum(file.stat().st_size for file in files)
    found = {name: results.rounded(statistics.median(times)) for name, times in seconds.items()}
    is_full = args.num_runs >= 1000 and args.num_lines >= 1000
    for name in COMMANDS:
        results.emit(
            f"results_reading/{name}",
            device="cpu",
            packages=("numpy", "scipy", "rich", "plotly"),
            shape={key: getattr(args, key) for key in ("num_runs", "num_lines")},
            unit="seconds",
            ours=found[name],
            peer="each line of the same files parsed by json.loads",
            theirs=found["parsed"],
            ratio=round(found["parsed"] / found[name], 3),
            target={"seconds": TARGET_SECONDS} if is_full else {},
            note="",
            cpu_seconds=results.rounded(statistics.median(cpu_seconds[name])),
            file_bytes=num_bytes,
            repeats=args.repeats,
        )


def write_run(folder: pathlib.Path, i: int, num_lines: int) -> pathlib.Path:
    """The folder of a finished run: five to a learning rate, an evaluation in ten lines."""
    run = folder / f"{i:010x}"
    run.mkdir()
    config = {
        "seed": i % 5,
        "optimizer": {"name": "adamw", "peak_lr": 1e-3 * 1.01 ** (i // 5)},
        "checkpoint": {"best_metric": ""},
        "train": {"num_steps": num_lines},
    }
    (run / "config.json").write_text(json.dumps(config))
    records = [{"step": 0, "run/num_steps": num_lines}]
    for step in range(1, num_lines - 1):
        loss = 2 + 1 / (1 + step / 3) + 0.01 * (i % 7)
        if step % 10 == 0:
            more = {
                "eval/loss": loss,
                "eval/perplexity": 1.1 * loss,
                "eval/bits_per_byte": loss / 3,
            }
        else:
            more = _logged(step, loss)
        records.append({"step": step} | more)
    records.append({"step": num_lines - 2, "run/done": 1})
    path = run / "metrics.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def _logged(step: int, loss: float) -> dict[str, float | None]:
    """What a run logs of a step, on a CPU."""
    noise = (step * 2654435761 % 2**32) / 2**32
    return {
        "train/loss": loss + 0.1 * noise,
        "train/grad_norm": noise,
        "train/learning_rate": 1e-3 * noise,
        "train/tokens": 4096 * step,
        "train/skipped": 0,
        "train/tokens_per_second": 3e4 + 1e3 * noise,
        "train/mfu": None,
        "train/step_seconds": 0.1 + 0.01 * noise,
        "train/step_seconds_max": 0.2 + 0.01 * noise,
        "train/data_wait": 0.01 * noise,
        "train/compile_seconds": 3.4567890123,
        "train/memory_bytes": None,
        "train/peak_memory_bytes": None,
    }


def _call(command: tuple[str, ...], folder: str) -> None:
    name, *flags = command
    arguments = [name, folder, *(flag.format(folder=folder) for flag in flags)]
    subprocess.run(
        [sys.executable, "-m", "lm.results", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def _parse(files: list[pathlib.Path]) -> None:
    for file in files:
        for line in file.read_bytes().splitlines():
            json.loads(line)


def _time(way: Callable) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, which depend less on what else runs."""
    start = time.perf_counter(), _cpu_seconds()
    way()
    return time.perf_counter() - start[0], _cpu_seconds() - start[1]


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    main()
