"""Runs the benchmarks that this machine can, one after the other, and shows a table.

    python -m benchmarks --only=train_step,generation --output=benchmarks.jsonl

The JSON lines, one a measurement (`benchmarks.results`), go to the file as they come. The exit code
is 1 if any benchmark failed; the others run all the same. `--gpu` takes what docs/results/gpu.md
shows, the most important first, and ends after eight minutes; the table is beside the lines.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from benchmarks import gpu, results, sides


class Benchmark(NamedTuple):
    """A program and what it needs.

    arguments: of Python.
    small: flags with which it takes seconds, on a CPU too, to see whether it runs.
    platforms: of JAX, where its figures mean something.
    packages: must be importable.
    """

    arguments: tuple[str, ...]
    small: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ("cpu", "gpu", "tpu")
    packages: tuple[str, ...] = ()


_TORCH = ("torch", "transformers")
_SMALL_MODEL = ("--num_layers=2", "--num_heads=2", "--model_dim=32", "--vocab_size=512")


def _train_step(case: str, platform: str, *small: str, variants: str = "default") -> Benchmark:
    small = (*_SMALL_MODEL, "--seq_len=32", "--batch_size=4", "--rounds=1", *small)
    arguments = ("-m", "benchmarks.train_step", f"--case={case}", f"--variants={variants}")
    return Benchmark(arguments, small, (platform,), _TORCH)


def _vmap(case: str) -> Benchmark:
    small = ("--members=2", "--num_steps=2", "--model_dim=16", "--seq_len=32")
    return Benchmark(("-m", "benchmarks.vmap", f"--case={case}"), small, ("cpu",))


BENCHMARKS = {
    "beam": Benchmark(("-m", "benchmarks.beam"), ("--repeats=1",), ("cpu",), ("apache_beam",)),
    "checkpoint": Benchmark(("-m", "benchmarks.checkpoint"), ("--megabytes=7", "--rounds=1")),
    "crows_pairs": Benchmark(
        ("-m", "benchmarks.crows_pairs"),
        ("--num_layers=1", "--model_dim=64", "--num_pairs=4", "--rounds=1"),
        ("cpu",),
        _TORCH,
    ),
    "curation_rules": Benchmark(
        ("-m", "benchmarks.curation_rules"), ("--num_documents=20", "--rounds=1"), ("cpu",)
    ),
    "curation_memory": Benchmark(
        ("-m", "benchmarks.curation_memory"), ("--megabytes=1",), ("cpu",)
    ),
    "drafts": Benchmark(
        ("-m", "benchmarks.drafts"),
        (*_SMALL_MODEL, "--prompt_len=8", "--new_tokens=16", "--num_prompts=1", "--rounds=1"),
    ),
    "duplicates_growth": Benchmark(
        ("-m", "benchmarks.duplicates_growth"), ("--num_documents=30",), ("cpu",)
    ),
    "finetuning": Benchmark(
        ("-m", "benchmarks.finetuning"),
        ("--cases=predictions", "--rounds=1", "--num_train=16"),
        ("cpu",),
        (*_TORCH, "peft"),
    ),
    "generation": Benchmark(
        ("-m", "benchmarks.generation"),
        (
            *(*_SMALL_MODEL, "--prompt_len=8", "--new_tokens=4", "--batch_sizes=1,2"),
            *("--read_len=16", "--rounds=1"),
        ),
        ("cpu", "gpu"),
        _TORCH,
    ),
    "growth": Benchmark(
        ("-m", "benchmarks.growth"),
        ("--curves=batch,reading,planning,results", "--points=1"),
        ("cpu",),
    ),
    "import_memory": Benchmark(
        ("-m", "benchmarks.import_memory"), ("--num_layers=1", "--model_dim=128")
    ),
    "interpret": Benchmark(("-m", "benchmarks.interpret"), ("--rounds=1",), ("cpu",), _TORCH),
    "loader": Benchmark(("-m", "benchmarks.loader"), ("--num_steps=5", "--repeats=1")),
    "loss": Benchmark(
        ("-m", "benchmarks.loss"),
        (
            *("--vocab_size=4096", "--model_dim=32", "--seq_len=32", "--batch_size=2"),
            *("--timed_vocab_size=4096", "--timed_model_dim=32", "--rounds=1"),
        ),
        ("cpu", "gpu"),
    ),
    "mixture": Benchmark(
        ("-m", "benchmarks.mixture"), ("--num_sources=3", "--num_steps=5", "--repeats=1")
    ),
    "near_duplicates": Benchmark(
        ("-m", "benchmarks.near_duplicates"), ("--num_documents=30", "--repeats=1"), ("cpu",)
    ),
    "pipeline": Benchmark(
        ("-m", "benchmarks.pipeline"),
        ("--num_layers=1", "--num_texts=8", "--rounds=1"),
        ("cpu",),
        _TORCH,
    ),
    "preparation": Benchmark(
        ("-m", "benchmarks.preparation"), ("--vocab_size=512", "--copies=1", "--repeats=1")
    ),
    "results_reading": Benchmark(
        ("-m", "benchmarks.results_reading"), ("--num_runs=10", "--num_lines=20", "--repeats=1")
    ),
    "serving": Benchmark(
        ("-m", "benchmarks.serving"),
        (*_SMALL_MODEL, "--num_streams=2", "--new_tokens=4", "--rounds=1"),
        ("cpu",),
        (*_TORCH, "fastapi", "openai", "uvicorn"),
    ),
    "start_up": Benchmark(("-m", "benchmarks.start_up"), ("--repeats=1",)),
    "train_step/quickstart": _train_step("quickstart", "cpu"),
    "train_step/width_256": _train_step("width_256", "cpu"),
    "train_step/width_512": _train_step("width_512", "cpu", variants="default,muon"),
    "train_step/gpt2": _train_step("gpt2", "gpu"),
    "train_step/gpt2_b64": _train_step("gpt2_b64", "gpu"),
    "train_step/bert": _train_step("bert", "gpu"),
    "train_step/llama": _train_step("llama", "gpu", "--num_kv_heads=1"),
    "vmap/rates": _vmap("rates"),
    "vmap/seeds": _vmap("seeds"),
    "web_text": Benchmark(("-m", "benchmarks.web_text"), ("--rounds=1",), ("cpu",)),
}
# Yes or no: it is no measurement, and `--gpu` alone asks for it.
_CHECK_KERNELS = Benchmark(("-m", "benchmarks.check_kernels"))


def main(argv: list[str]) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", default="", help="names, or what stands before their slash")
    parser.add_argument("--list", action="store_true", help="say what would run, then exit")
    parser.add_argument("--output", help="where JSON lines go; benchmarks.jsonl unless given")
    parser.add_argument(
        "--small", action="store_true", help="tiny shapes, wherever they run: does all of it work?"
    )
    parser.add_argument("--gpu", action="store_true", help="what docs/results/gpu.md shows")
    parser.add_argument("--predict", help="show predictions for this GPU, as NVIDIA H200, and exit")
    args = parser.parse_args(argv)
    if args.predict:
        print(gpu.predicted(args.predict))
        return 0
    platform, device_bytes = sides.device()
    chosen = choose(args.only)
    if args.gpu:
        chosen = {
            name: (BENCHMARKS | {"check_kernels": _CHECK_KERNELS})[name] for name in gpu.SHARES
        }
        chosen = {
            name: one._replace(
                arguments=(*one.arguments, *gpu.flags_of(name, device_bytes)), platforms=("gpu",)
            )
            for name, one in chosen.items()
        }
    if args.small:
        chosen = {name: one._replace(platforms=(platform,)) for name, one in chosen.items()}
    skipped = {name: reason for name in chosen if (reason := why_not(chosen[name], platform))}
    if args.list:
        for name in chosen:
            print(f"{name}: {f'skipped, {skipped[name]}' if name in skipped else 'runs here'}")
        return 0
    commands = {
        name: [*one.arguments, *(one.small if args.small else ())]
        for name, one in chosen.items()
        if name not in skipped
    }
    output = pathlib.Path(args.output or ("benchmarks.jsonl" if not args.gpu else gpu.OUTPUT))
    if not args.gpu:
        return run(commands, skipped, output, has_targets=not args.small)
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # Sides share the device.
    table = output.with_suffix(".md")
    rehearsed = ["Tiny shapes, whatever the titles say: a rehearsal."] if args.small else []
    return run(
        commands,
        skipped,
        output,
        has_targets=not args.small,
        limits={name: share.seconds for name, share in gpu.SHARES.items()},
        budget=gpu.BUDGET_SECONDS,
        show=lambda found, remarks: table.write_text(gpu.markdown(found, [*rehearsed, *remarks])),
    )


def choose(only: str) -> dict[str, Benchmark]:
    """Those of these names, or of a program of this name; all for "".

    Raises:
      SystemExit: there is no such name.
    """
    names = [name for name in only.split(",") if name]
    for name in names:
        if not any(name in (known, known.split("/")[0]) for known in BENCHMARKS):
            raise SystemExit(f"--only={name} is unknown; choose {', '.join(BENCHMARKS)}")
    return {
        name: one
        for name, one in BENCHMARKS.items()
        if not names or name in names or name.split("/")[0] in names
    }


def why_not(one: Benchmark, platform: str, find: Callable = importlib.util.find_spec) -> str | None:
    """Why a benchmark cannot run on this machine; None if it can."""
    if platform not in one.platforms:
        return f"needs {' or '.join(one.platforms)}, and JAX has {platform} here"
    missing = [package for package in one.packages if find(package) is None]
    return f"needs {' and '.join(missing)}" if missing else None


_DAY = 86400.0


def run(
    commands: dict[str, list[str]],
    skipped: dict[str, str],
    output: pathlib.Path,
    *,
    has_targets: bool,
    limits: Mapping[str, float] | None = None,
    budget: float = _DAY,
    show: Callable[[list[dict], list[str]], object] = lambda found, remarks: None,
) -> int:
    """Runs Python with each command in turn, writes what they measure, and shows the table.

    Args:
      commands: arguments of Python by benchmark.
      skipped: the reason by benchmark.
      output: where the lines go.
      has_targets: the shapes are those that targets are about.
      limits: seconds by benchmark, after which it is stopped; what it has measured counts.
      budget: seconds for all; what then has not begun is skipped.
      show: is given all that was measured so far, and remarks, after each measurement.

    Returns:
      1 if any of them failed or was stopped, else 0.
    """
    started, found, rows, remarks = time.monotonic(), [], [], []

    def remark(name: str, note: str) -> None:
        rows.append([name, *[""] * (len(results.COLUMNS) - 2), note])
        remarks.append(f"{name}: {note}.")
        show(found, remarks)

    def take(line: str) -> None:
        result = json.loads(line)
        if not has_targets:
            result["target"] = {}
        file.write(json.dumps(result) + "\n")
        file.flush()
        found.append(result)
        rows.append(results.row(result))
        show(found, remarks)

    failed = False
    with output.open("w") as file:
        for name, command in commands.items():
            left = budget - (time.monotonic() - started)
            if left <= 0:
                failed = True
                remark(name, "not taken, the time was up")
                continue
            print(f"{name} ...", flush=True)
            limit = min((limits or {}).get(name, _DAY), left)
            code = _run(command, limit, take)
            if code == -signal.SIGKILL:
                remark(name, f"stopped after {limit:.0f} s")
            elif code:
                remark(name, f"failed with exit code {code}")
            failed = failed or code != 0
    for name, reason in skipped.items():
        remark(name, f"skipped: {reason}")
    print(f"\n{results.table(rows)}\n\nThe measurements are in {output}.")
    return int(failed)


def _run(command: list[str], limit: float, take: Callable[[str], None]) -> int:
    """Runs Python for so many seconds at most, and takes its lines; returns the exit code."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    # With the processes that it has started, which hold the device.
    stop = lambda: os.killpg(process.pid, signal.SIGKILL)
    timer = threading.Timer(limit, stop)
    timer.start()
    try:
        with process:
            for line in process.stdout:
                if line.startswith('{"benchmark"'):
                    take(line)
    except BaseException:
        stop()
        raise
    finally:
        timer.cancel()
    return process.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
