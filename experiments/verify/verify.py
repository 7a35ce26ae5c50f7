"""Tests whether runs of a config keep their promises, by a shrunken one on the same data."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Iterator

import jax
import ml_collections
import rich
import rich.table

from experiments.verify import finetuning, pretraining
from experiments.verify.checks import CHECKS, Result
from experiments.verify.subject import ShrunkRun, mesh_settings, num_needed
from lm.system.progress_bar import waiting

# What is computed here takes milliseconds, so that LLVM may hurry.
_COMPILE_FAST = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def start_devices(parallel: ml_collections.ConfigDict) -> None:
    """Has JAX, not started yet, simulate the CPU devices that the mesh of this block needs."""
    os.environ["XLA_FLAGS"] = f"{_COMPILE_FAST} {os.environ.get('XLA_FLAGS', '')}"
    _, num_devices = mesh_settings(parallel)
    jax.config.update("jax_num_cpu_devices", num_devices)
    jax.config.update("jax_cpu_enable_async_dispatch", False)  # Fewer cores than devices.


def run(subject: ShrunkRun) -> int:
    """Prints a table of all checks; returns 1 where one failed, else 0. Writes into no workdir."""
    results = check(subject)
    rich.print(_table(results))
    failed = [name for name, result in results.items() if result.failed]
    print(f"failed: {', '.join(failed)}" if failed else "nothing failed")
    return 1 if failed else 0


@contextlib.contextmanager
def opened(config: ml_collections.ConfigDict) -> Iterator[ShrunkRun]:
    """Makes what is checked, in float32 on one device of the CPU, but for the mesh.

    That is the run's own where there are several accelerators, or else one of simulated devices.

    Raises:
      UserError: what a run would raise before it trains.
    """
    simulated = tuple(jax.devices("cpu"))
    own, mesh = jax.devices(), tuple(jax.devices())
    if jax.default_backend() == "cpu":  # The others are there for the mesh alone.
        own = simulated[: num_needed(config.parallel)]
    if jax.default_backend() == "cpu" or jax.device_count() == 1:
        mesh = simulated[: mesh_settings(config.parallel)[1]]
    with (
        tempfile.TemporaryDirectory() as folder,
        jax.default_device(simulated[0]),
        jax.default_matmul_precision("highest"),
    ):
        if config.experiment == "finetune":
            yield finetuning.make(config, own, simulated[:1], mesh)
        else:
            yield pretraining.make(config, own, simulated[:1], mesh, pathlib.Path(folder))


def check(subject: ShrunkRun) -> dict[str, Result]:
    """Yields the result of each check by its name."""
    results = {}
    for name, (measure, _) in CHECKS.items():
        with waiting(f"checking {name}"):
            results[name] = measure(subject)
    return results


def _table(results: dict[str, Result]) -> rich.table.Table:
    table = rich.table.Table("check", "differences in", "measured", "bound", "result")
    for name, result in results.items():
        if result.skipped:
            measured, bound, outcome = "", "", f"skipped: {result.skipped}"
        else:
            measured, bound = f"{result.measured:.2g}", f"{result.bound:.2g}"
            outcome = "[red]fail[/red]" if result.failed else "pass"
        table.add_row(name, CHECKS[name][1], measured, bound, outcome)
    return table
