"""How long does a whole run of fine-tuning take? `python -m benchmarks.finetuning` prints lines.

    python -m benchmarks.finetuning --cases=classification,tagging --rounds=5

Each side is a command of its own: `launch.py`, and the `Trainer` of `transformers`
(`benchmarks.finetuning_peers`), which start from the same folder, read the same lines, learn for an
epoch, evaluate, write predictions and save. They take turns; processor seconds are those of the
command and all that it starts, memory is the most that one process of it had. A first start has no
compiled programs; all others find those of the first.
"""

import argparse
import functools
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

from benchmarks import finetuning_cases, results, sides
from benchmarks.finetuning_cases import CASES


class Spent(NamedTuple):
    """What a command took."""

    seconds: float
    processor_seconds: float
    peak_bytes: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=pathlib.Path, help="kept; a temporary one unless given")
    parser.add_argument("--num_train", type=int, help="records; the case's unless given")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        for name in args.cases.split(","):
            folder = (args.folder or pathlib.Path(temporary)) / name
            if not (folder / "model").exists():
                finetuning_cases.make(name, folder, args.num_train)
            measure(name, folder, args.rounds)


def measure(name: str, folder: pathlib.Path, rounds: int) -> None:
    """Runs both sides of a case in turns, and prints what they took: a line for each start."""
    starts = {"ours": functools.partial(_ours, name), "peer": functools.partial(_peer, name)}
    found: dict[str, list[Spent]] = {side: [] for side in starts}
    for r in range(rounds + 1):  # The first round is the first start.
        for side in list(starts)[:: 1 if r % 2 else -1]:  # Who begins changes.
            spent = _run(starts[side](folder, folder / f"{side}-{r}"), folder)
            print(f"{name}, {side}: {spent}", file=sys.stderr, flush=True)
            found[side].append(spent)
    case = CASES[name]
    num_train = len((folder / "train.jsonl").read_text().splitlines())
    emit = functools.partial(_emit, name, num_train)
    emit("first start", found["ours"][:1], found["peer"][:1], case.first_target)
    emit("second start", found["ours"][1:], found["peer"][1:], case.target)


def _ours(name: str, folder: pathlib.Path, workdir: pathlib.Path) -> list[str]:
    case = CASES[name]
    overrides = {"data.batch_size": finetuning_cases.BATCH_SIZE, **case.overrides}
    if name == "predictions":
        overrides["checkpoint"] = folder / "model"
        overrides["data.validation"] = folder / "train.jsonl"
        overrides["predictions"] = f"{workdir}.jsonl"
    else:
        overrides["init_from"] = folder / "model"
        overrides["data.train"] = folder / "train.jsonl"
        overrides["data.validation"] = folder / "validation.jsonl"
        overrides["train.num_epochs"] = float(finetuning_cases.NUM_EPOCHS)
    values = [f"--config.{key}={value}" for key, value in overrides.items()]
    return ["launch.py", f"--config=configs/{case.recipe}", f"--workdir={workdir}", *values]


def _peer(name: str, folder: pathlib.Path, output: pathlib.Path) -> list[str]:
    return ["-m", "benchmarks.finetuning_peers", name, str(folder), str(output)]


def _run(arguments: list[str], folder: pathlib.Path) -> Spent:
    environment = os.environ | sides.ENVIRONMENT | {"LM_CACHE": str(folder / "cache")}
    start = time.perf_counter()
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        # Of this command alone, and of what it has waited for.
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{arguments} failed:\n{(folder / 'log.txt').read_text()[-3000:]}")
    seconds = time.perf_counter() - start
    return Spent(seconds, usage.ru_utime + usage.ru_stime, _bytes(usage))


def _bytes(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _emit(
    name: str,
    num_train: int,
    start: str,
    ours: list[Spent],
    peer: list[Spent],
    target: dict[str, float],
) -> None:
    median = lambda found, field: statistics.median(getattr(each, field) for each in found)
    pairs = list(zip(ours, peer, strict=True))
    ratio = lambda field: round(
        statistics.median(getattr(b, field) / getattr(a, field) for a, b in pairs), 3
    )
    results.emit(
        f"finetuning/{name}",
        device="cpu",
        packages=("jax", "torch", "transformers", "peft"),
        shape={"num_train": num_train, "batch_size": finetuning_cases.BATCH_SIZE},
        unit="seconds",
        ours=round(median(ours, "seconds"), 2),
        peer="Trainer, batches by length, fused AdamW, eager",
        theirs=round(median(peer, "seconds"), 2),
        ratio=ratio("seconds"),
        target=target,
        note=start,
        processor_seconds=round(median(ours, "processor_seconds"), 2),
        peer_processor_seconds=round(median(peer, "processor_seconds"), 2),
        processor_ratio=ratio("processor_seconds"),
        peak_bytes=median(ours, "peak_bytes"),
        peer_peak_bytes=median(peer, "peak_bytes"),
        memory_ratio=ratio("peak_bytes"),
        rounds=len(ours),
    )


if __name__ == "__main__":
    main()
