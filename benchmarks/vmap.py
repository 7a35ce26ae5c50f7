"""Do runs that differ in a few numbers cost less as one program? `python -m benchmarks.vmap`.

The quickstart at a quarter of its width, at as many rates (or from as many seeds): once by
--launcher=vmap, and once as processes one after the other, each with all cores, as --launcher=local
has it on a CPU. Both start without compiled programs, and each process finds what those before it
compiled, as it does without a benchmark: with another seed that is everything, with another rate,
which is a constant of its program, all but the step. The data is prepared before. A side's time
runs from its first command to the end of its last, so it holds start, compilation, evaluation and
checkpoints. The target is 0.6 of the others' time.
"""

import argparse
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

from benchmarks import results, sides
from configs import sweeping

TARGET = 1 / 0.6
_PEAK_LR = 1e-2
_SWEEP = """
def sweep():
    return {overrides}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", choices=("rates", "seeds"), default="rates")
    parser.add_argument("--members", type=int, default=8)
    parser.add_argument("--num_steps", type=int, default=300)
    parser.add_argument("--model_dim", type=int, default=32)
    parser.add_argument("--seq_len", type=int, default=256)
    args = parser.parse_args()
    config = [
        "--config=configs/quickstart.py",
        f"--config.model.model_dim={args.model_dim}",
        f"--config.model.head_dim={args.model_dim // 2}",
        f"--config.model.mlp_dim={4 * args.model_dim}",
        f"--config.data.seq_len={args.seq_len}",
        f"--config.train.num_steps={args.num_steps}",
        "--config.optimizer.warmup_steps=1",
        "--config.eval.compressors=False",  # They take as long as a fifth of a run, and train none.
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        _run(folder, [*config, "--show_batch=1"])
        overrides = sweeping.seeds(args.members)
        if args.case == "rates":
            rates = [_PEAK_LR * 0.8**i for i in range(args.members)]
            overrides = sweeping.grid({"optimizer.peak_lr": rates})
        (folder / "sweep.py").write_text(_SWEEP.format(overrides=overrides))
        sweep = [f"--sweep={folder}/sweep.py", "--launcher=vmap", f"--workdir={folder}/together"]
        ours = _seconds(folder, [[*config, *sweep]])
        alone = [
            [*config, *(f"--config.{k}={v}" for k, v in one.items()), f"--workdir={folder}/{i}"]
            for i, one in enumerate(overrides)
        ]
        theirs = _seconds(folder, alone)
    results.emit(
        f"vmap/{args.case}",
        device=sides.platform(),
        packages=("jax", "flax"),
        shape={"members": args.members, "steps": args.num_steps, "width": args.model_dim},
        unit="seconds",
        ours=results.rounded(ours[0]),
        peer="the same runs, each a process, one after the other",
        theirs=results.rounded(theirs[0]),
        ratio=results.rounded(theirs[0] / ours[0]),
        target={"ratio": TARGET},
        note=f"processor time {ours[1]:.0f} s, peer {theirs[1]:.0f} s",
        processor_seconds=results.rounded(ours[1]),
        peer_processor_seconds=results.rounded(theirs[1]),
    )


def _seconds(folder: pathlib.Path, commands: list[list[str]]) -> tuple[float, float]:
    """Seconds from the first to the end of the last, without compiled programs at the start, and
    the seconds that processors spent on them.
    """
    shutil.rmtree(folder / "cache" / "xla", ignore_errors=True)
    start, spent = time.perf_counter(), _processor_seconds()
    for arguments in commands:
        _run(folder, arguments)
    return time.perf_counter() - start, _processor_seconds() - spent


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _run(folder: pathlib.Path, arguments: list[str]) -> None:
    environment = os.environ | {"LM_CACHE": str(folder / "cache")}
    command = [sys.executable, "launch.py", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}")


if __name__ == "__main__":
    main()
