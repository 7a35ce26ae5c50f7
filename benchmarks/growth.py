"""How do costs grow with sizes? `python -m benchmarks.growth` prints a JSON line a size.

    python -m benchmarks.growth --curves=width,depth > growth.jsonl
    python -m benchmarks.growth --draw=growth.jsonl   # growth.png, and a table of slopes

Each size has a process of its own, so that a peak is of that size alone. Memory is the peak of
resident memory less what was resident once all was imported; of training steps it holds what
compiling them took, so that beside it stands what XLA plans for the step alone. Seconds are medians
over repetitions in one process, by the clock and of the processors.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import pathlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from benchmarks import import_memory, results, results_reading, train_cases
from lm.system import allocator

_SHAPE = dict(num_layers=2, num_heads=4, model_dim=128, vocab_size=2048, seq_len=128, batch_size=8)
_HEAD_DIM = 32
_SECONDS, _FEWEST, _MOST = 1.0, 3, 30  # Of repetitions.
_SHOWN = (("processor_seconds", "processor seconds", 1), ("peak_bytes", "MB", 1e6))
_NUM_LINES = 100  # Of metrics.jsonl of a run.
# A run that is over at once, so that only its launcher is measured.
_RUN = """
import os, sys
folder = sys.argv[-1].removeprefix("--workdir=")
os.makedirs(folder, exist_ok=True)
with open(f"{folder}/metrics.jsonl", "w") as file:
    file.write('{"step": 0, "run/num_steps": 1}\\n{"step": 1, "run/done": 1}\\n')
"""


class Cost(NamedTuple):
    """What one size costs.

    theory: seconds and bytes in units of its own: how they should grow.
    more: what else was measured.
    """

    seconds: float
    processor_seconds: float
    peak_bytes: int
    theory: tuple[float, float]
    more: dict[str, float]


class Curve(NamedTuple):
    """What measures a size, and the sizes."""

    measure: Callable[[int], Cost]
    sizes: tuple[int, ...]


def _repeat(run: Callable[[], Any], theory: tuple[float, float], fewest: int = _FEWEST) -> Cost:
    """Measures a call; one that is repeated is not counted the first two times."""
    before, start = import_memory.current_bytes(), time.perf_counter()
    seconds, spent = [], []
    while len(seconds) < fewest or (
        fewest > 1 and time.perf_counter() - start < _SECONDS and len(seconds) < _MOST
    ):
        at = time.perf_counter(), time.process_time()
        run()
        seconds.append(time.perf_counter() - at[0])
        spent.append(time.process_time() - at[1])
    counted = slice(2 if fewest > 1 else 0, None)
    medians = statistics.median(seconds[counted]), statistics.median(spent[counted])
    return Cost(*medians, _peak_bytes() - before, theory, {"first_seconds": seconds[0]})


def _peak_bytes() -> int:
    # Not by getrusage, which says of a new process what the one that started it had held.
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


# Training steps ------------------------------------------------------------------------------


def _step(key: str, size: int) -> Cost:
    """Measures a step with one size changed; theory is FLOPs, and bytes by shapes."""
    from experiments.estimates import memory
    from experiments.wiring import pretraining
    from lm.objectives.causal import causal

    shape = _SHAPE | {key: size}
    shape["num_heads"] = shape["model_dim"] // _HEAD_DIM
    config = train_cases.config_of("quickstart", shape, "default")
    made = train_cases.make_program(config, num_documents=2)
    parts = pretraining.make_parts(config)
    held = memory.pretraining_bytes(config, parts, causal, made.abstract)
    num_tokens = shape["batch_size"] * shape["seq_len"]
    theory = made.flops_per_token * num_tokens, sum(held.values())
    before, start = import_memory.current_bytes(), time.process_time()
    program = made.trace().lower().compile()
    compiled = time.process_time() - start
    plan = program.memory_analysis()
    planned = plan.temp_size_in_bytes + plan.argument_size_in_bytes
    state = made.first_state()

    def advance():
        nonlocal state
        state, metrics = program(state, made.batch, **made.more)
        float(metrics["loss"])  # Waits for it.

    cost = _repeat(advance, theory, fewest=5)
    more = {"compile_processor_seconds": compiled, "planned_bytes": planned}
    return cost._replace(peak_bytes=_peak_bytes() - before, more=more)


# Fine-tuning: examples -----------------------------------------------------------------------


@contextlib.contextmanager
def _examples(**nums: int) -> Iterator[Any]:
    """Yields the config of a small classifier of texts of 5 to 20 words, so many by split."""
    from configs import bert, classify

    config = classify.get_config("model=bert,tokenizer=bytes,optimizer=adamw")
    config.model = bert.bert_model(2, 64, vocab_size=512, max_len=128)
    config.train.update(num_steps=1, num_epochs=0.0)
    draw = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        for split, num in nums.items():
            path = pathlib.Path(folder) / f"{split}.jsonl"
            with path.open("w") as file:
                for _ in range(num):
                    words = (f"{draw.randrange(10**4):04}" for _ in range(draw.randint(5, 20)))
                    example = {"text": " ".join(words), "label": draw.choice(("no", "yes"))}
                    file.write(json.dumps(example) + "\n")
            config.data[split] = str(path)
        yield config


def _reading(size: int) -> Cost:
    """Measures how the examples of a file are read and encoded."""
    from experiments import finetune

    with _examples(train=size, validation=32) as config:
        return _repeat(lambda: finetune.read(config.copy_and_resolve_references()), (size, size))


def _evaluation(size: int) -> Cost:
    """Measures an evaluation with predictions and scores, compiled before."""
    from experiments import finetune

    with _examples(train=32, validation=size) as config:
        config, data = finetune.read(config)
        parts = finetune.make_parts(config, data)
        sizes = dict(multiple=config.data.multiple, batch_size=config.eval.batch_size)
        evaluate = finetune.make_evaluation(
            data.task, parts.model, parts.mesh, data.validation, **sizes
        )
        return _repeat(lambda: evaluate(parts.params), (size, size))


# Sweeps: runs --------------------------------------------------------------------------------


def _sweep(dry_run: bool, size: int) -> Cost:
    """Measures what this process spends on the runs of a sweep, on a terminal.

    They are over at once. Their own processes count by the clock alone.
    """
    from experiments.launchers import local
    from experiments.sweeps import costs, launch, plan, process_pool  # noqa: F401 -- As above.

    process_pool.PROGRAM = (sys.executable, "-I", "-S", "-c", _RUN)
    base = plan.Base("configs/quickstart.py", {})
    settings = dict(num_parallel=len(os.sched_getaffinity(0)), devices_per_run=0)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        (folder / "sweep.py").write_text(
            f"def sweep():\n    return [{{'seed': i}} for i in range({size})]\n"
        )

        def run():
            of = dict(can_search=True, dry_run=dry_run)
            launch.launch(base, f"{folder}/sweep.py", folder / "runs", local, settings, **of)

        with _hidden():
            return _repeat(run, (size, size), fewest=1)


def _results(size: int) -> Cost:
    """Measures `python -m lm.results` on runs, five to a config."""
    from scipy import stats  # noqa: F401 -- It is imported where it is first used.

    from lm.results import __main__ as tool

    with tempfile.TemporaryDirectory() as folder, _hidden():
        for i in range(size):
            results_reading.write_run(pathlib.Path(folder), i, _NUM_LINES)
        return _repeat(lambda: tool.main([folder]), (size, size), fewest=1)


@contextlib.contextmanager
def _hidden() -> Iterator[None]:
    """Has what is printed go nowhere, as if to a terminal."""
    os.environ["FORCE_COLOR"] = "1"  # By which rich takes anything for one.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


_EXAMPLES = (1000, 2000, 4000, 8000, 16000)
_RUNS = (10, 32, 100, 316, 1000)
CURVES = {
    "width": Curve(partial(_step, "model_dim"), (64, 128, 256, 512, 1024)),
    "depth": Curve(partial(_step, "num_layers"), (1, 2, 4, 8, 16)),
    "length": Curve(partial(_step, "seq_len"), (128, 256, 512, 1024, 2048)),
    "batch": Curve(partial(_step, "batch_size"), (4, 8, 16, 32, 64)),
    "vocabulary": Curve(partial(_step, "vocab_size"), (2048, 4096, 8192, 16384, 32768)),
    "reading": Curve(_reading, _EXAMPLES),
    "evaluation": Curve(_evaluation, _EXAMPLES),
    "planning": Curve(partial(_sweep, True), _RUNS),
    "launching": Curve(partial(_sweep, False), _RUNS),
    "results": Curve(_results, _RUNS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", default=",".join(CURVES), help="unless given, all of them")
    parser.add_argument("--points", type=int, default=5, help="of each curve, the smallest ones")
    parser.add_argument("--draw", type=pathlib.Path, help="a file of these lines; measure nothing")
    args = parser.parse_args()
    if args.draw:
        return draw(args.draw)
    for name in args.curves.split(","):
        curve = CURVES[name]
        for size in curve.sizes[: args.points]:
            emit(name, size, _apart(curve.measure, size))


def _apart(measure: Callable[[int], Cost], size: int) -> Cost:
    """Measures in a new process, which shares no memory with this one."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (size,))


def emit(name: str, size: int, cost: Cost) -> None:
    """Prints a point of a curve."""
    results.emit(
        f"growth/{name}",
        device="cpu",
        packages=("jax", "numpy"),
        shape={name: size},
        unit="seconds",
        ours=results.rounded(cost.seconds),
        peer=None,
        theirs=None,
        ratio=None,
        target={},
        note="",
        processor_seconds=results.rounded(cost.processor_seconds),
        peak_bytes=cost.peak_bytes,
        theory=cost.theory,
        **{key: results.rounded(value) for key, value in cost.more.items()},
    )


def draw(path: pathlib.Path) -> None:
    """Draws the curves of a file as PNG beside it, and prints a table of their slopes."""
    from matplotlib.figure import Figure

    points: dict[str, list[dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        point = json.loads(line)
        points.setdefault(point["benchmark"].partition("/")[2], []).append(point)
    num_columns = -(-len(points) // 2)
    figure = Figure(figsize=(2.3 * num_columns, 8), layout="constrained")
    axes = figure.subplots(4, num_columns, squeeze=False)
    print("| curve | sizes | seconds | slope | theory | at the end | theory |", end="")
    print(" MB | slope at the end | theory |\n|" + "---|" * 10)
    for i, (name, of) in enumerate(points.items()):
        sizes = [point["shape"][name] for point in of]
        cells = [name, f"{sizes[0]:,} to {sizes[-1]:,}"]
        for j, (key, unit, scale) in enumerate(_SHOWN):
            found = np.array([point[key] for point in of]) / scale
            theory = np.array([point["theory"][j] for point in of], float)
            panel = axes[2 * (i // num_columns) + j, i % num_columns]
            panel.loglog(sizes, theory * found[-1] / theory[-1], "--", color="0.6")
            panel.loglog(sizes, found, "o-", markersize=3)
            ends = [*found]
            if key == "peak_bytes" and "planned_bytes" in of[0]:  # The table has these alone.
                found = np.array([point["planned_bytes"] for point in of]) / scale
                panel.loglog(sizes, found, "s:", markersize=2)
                ends += [*found]
            panel.set_title(f"{name}, {unit}", fontsize="x-small")
            panel.tick_params(labelsize="x-small")
            panel.minorticks_off()
            panel.set_xticks([sizes[0], sizes[-1]], [f"{x:,}" for x in (sizes[0], sizes[-1])])
            panel.set_yticks([min(ends), max(ends)], [f"{x:,.3g}" for x in (min(ends), max(ends))])
            cells.append(f"{found[0]:.3g} to {found[-1]:.3g}")
            for part in (slice(None), slice(-2, None))[j:]:
                cells += [f"{slope(sizes[part], x[part]):.2f}" for x in (found, theory)]
        print("| " + " | ".join(cells) + " |")
    for panel in axes.flat:
        panel.set_visible(panel.has_data())
    figure.savefig(path.with_suffix(".png"), dpi=75)


def slope(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Fits d log cost / d log size by least squares."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


if __name__ == "__main__":
    allocator.use_huge_pages()
    main()
