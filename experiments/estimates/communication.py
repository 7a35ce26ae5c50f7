"""Estimates collective traffic of a big mesh by compiling the same step on a small one.

Each device of the twin has what a device of the big mesh has: as many rows, heads, MLP columns and
tokens of the vocabulary, of layers as wide. Only its groups are smaller, and its layers fewer. So
an array that a collective takes or gives, which is whole along the group's axes, is as large there
as here; how much of it is sent follows from the size of the group (`collectives.sent_bytes`). What
copies of the parameters add up among themselves, over `data` alone, are gradients that `fsdp` has
cut, and of these a device has less on the big mesh. All is linear in the number of layers.
"""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import rich.table
from jax.sharding import NamedSharding

from experiments.estimates.memory import whole_bytes
from experiments.wiring import objectives, pretraining, variants
from lm.corpus.rows import abstract_rows
from lm.costs import hardware
from lm.costs.collectives import KINDS, Collectives, Traffic, collectives_of, sent_bytes
from lm.costs.flops import peak_flops
from lm.parallel.batches import batch_spec
from lm.system.cache import cache_folder
from lm.train.language_model import make_step

# A layer apart; of a single one the compiler might leave out the loop.
_NUM_LAYERS = (2, 3)


def collectives(config: ml_collections.ConfigDict, axis_sizes: Mapping[str, int]) -> Collectives:
    """Estimates what a step of `config` sends on a mesh of these sizes, in a process of its own."""
    small = variants.small_sizes(axis_sizes)
    twin = variants.for_mesh(config, axis_sizes, small)
    if twin.model.dtype == "bfloat16":  # Which the compiler for CPUs widens; this is as large.
        twin.model.dtype = "float16"
    # The number of simulated devices is chosen when JAX starts, and this process has started it.
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(math.prod(small.values())),
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.estimates.communication"],
        input=twin.to_json(),
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parent.parent.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # The last line: libraries may print before it.
    found = json.loads(done.stdout.splitlines()[-1])
    # Over `data` alone gradients are added that `fsdp` has cut, on the big mesh into more shards.
    cut = small["fsdp"] / axis_sizes["fsdp"]
    return {
        (kind, tuple(axes)): Traffic(count, num_bytes * (cut if axes == ["data"] else 1))
        for kind, axes, (count, num_bytes) in found
    }


def of_all_layers(num_layers: int, compiled: Callable[[int], Collectives]) -> Collectives:
    """Extends `compiled`, called for few layers, to the collectives of so many layers."""
    if num_layers <= max(_NUM_LAYERS):
        return compiled(num_layers)
    fewer, more = map(compiled, _NUM_LAYERS)  # A line through two points: all is linear in layers.
    steps = (num_layers - _NUM_LAYERS[0]) / (_NUM_LAYERS[1] - _NUM_LAYERS[0])
    none = Traffic(0, 0)
    extended = {}
    for key in fewer | more:
        pairs = zip(fewer.get(key, none), more.get(key, none), strict=True)
        extended[key] = Traffic(*(a + steps * (b - a) for a, b in pairs))
    return {key: traffic for key, traffic in extended.items() if min(traffic) > 0}


def compiled(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> Collectives:
    """Counts the collectives of one step of `config`, compiled but never run: no array is made."""
    parts = pretraining.make_parts(config, devices)
    abstract = pretraining.abstract_state(parts)
    seq_len = config.data.seq_len
    objective = objectives.abstract_objective(config.objective, parts.model, seq_len)
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=NamedSharding(parts.mesh, batch_spec(x, parts.mesh))
        ),
        abstract_rows(config.data.batch_size, seq_len),
    )
    step = make_step(parts.loss_fn, objective, parts.tx, accumulate_steps=parts.accumulate_steps)
    shardings = pretraining.shardings_of(abstract)
    step = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None))  # As a run's.
    # Nothing will run, so machine code may be slow.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    program = step.lower(abstract, rows, jax.random.key(0)).compile(compiler_options=options)
    return collectives_of(program.as_text(), parts.mesh.shape)


def main() -> None:
    """Reads a twin's config from stdin; prints kind, axes and traffic of its collectives."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    config = ml_collections.ConfigDict(json.loads(sys.stdin.read()))
    of_layers = lambda n: compiled(variants.changed(config, {"model.num_layers": n}), jax.devices())
    found = of_all_layers(config.model.num_layers, of_layers)
    print(json.dumps([[kind, axes, traffic] for (kind, axes), traffic in found.items()]))


if __name__ == "__main__":
    main()


def show(
    found: Collectives,
    parts: pretraining.PretrainingParts,
    held: dict[str, int],
    flops: float,
) -> None:
    """Prints the collectives that were found in a step, and its least time by chip.

    `held` has bytes a device by category, see `memory.held_bytes`; `flops` are those of a step.
    """
    sizes = dict(parts.mesh.shape)
    rich.print(_collectives_table(found, sizes))
    rich.print(_time_table(parts, held, flops, found))
    big, small = (" x ".join(map(str, s.values())) for s in (sizes, variants.small_sizes(sizes)))
    rich.print(
        "All of this is estimated, nothing is measured. Collectives are those of the compiled step "
        f"of a twin with few layers on {small} simulated devices (data x fsdp x tensor x "
        f"sequence), scaled to all layers on {big}. Seconds are those of published peaks, which no "
        "program reaches: a step is the longest of FLOPs, HBM and collectives over data and fsdp "
        "(weights: they run beside the FLOPs), and then those over tensor and sequence (rows: the "
        "next layer waits for them). No figure: more chips than a TPU pod has."
    )


def _collectives_table(collectives: Collectives, sizes: dict[str, int]) -> rich.table.Table:
    table = rich.table.Table(
        "collective", "over", "arrays", "MB", "MB sent", title="of a step, a device"
    )
    total = 0.0
    for kind in KINDS:
        for _, axes in sorted(key for key in collectives if key[0] == kind) or [(kind, ())]:
            traffic = collectives[kind, axes] if axes else Traffic(0, 0)
            num_devices = math.prod(sizes[axis] for axis in axes)
            sent = sent_bytes(kind, traffic.payload_bytes, num_devices)
            total += sent
            numbers = f"{traffic.payload_bytes / 1e6:,.1f}", f"{sent / 1e6:,.1f}"
            table.add_row(kind, ", ".join(axes), f"{traffic.count:,.0f}", *numbers)
    table.add_section()
    table.add_row("all", "", "", "", f"{total / 1e6:,.1f}")
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _time_table(
    parts: pretraining.PretrainingParts,
    held: dict[str, int],
    flops: float,
    found: Collectives,
) -> rich.table.Table:
    c, num_devices = parts.model.config, parts.mesh.size
    # With remat=full the backward pass begins with another forward pass: 8 in place of 6 FLOPs.
    passes, extra = (3, 4 / 3) if c.remat == "full" else (2, 1.0)
    # Whole over `fsdp`, read in the type that is computed with, in each pass.
    weights = sum(whole_bytes(parts)) * jnp.dtype(c.dtype).itemsize / 4
    # Activations are written once and read once, and the state too, once a step.
    per_micro_batch = 2 * held["activations"] + passes * weights
    state = held["parameters"] + held["optimiser state"] + held["gradients"]
    traffic_bytes = 2 * state + parts.accumulate_steps * per_micro_batch
    title = f"seconds of a step on {num_devices:,} chips, at the least"
    numbers = ("HBM used", "FLOPs", "HBM", "weights", "rows", "step", "MFU")
    table = rich.table.Table("chip", *numbers, title=title)
    for chip in hardware.CHIPS:
        name = chip.name.removeprefix("NVIDIA ")
        used = f"{sum(held.values()) / 1e9:.0f} of {chip.memory_bytes / 1e9:.0f} GB"
        time = hardware.step_time(
            chip,
            flops=flops * extra / num_devices,
            memory_traffic_bytes=traffic_bytes,
            collectives=found,
            axis_sizes=parts.mesh.shape,
        )
        if time is None:
            table.add_row(name, used, *["-"] * 6)
            continue
        seconds = (*dataclasses.astuple(time), time.seconds)
        peak = num_devices * peak_flops(chip.name)
        mfu = flops / (time.seconds * peak)
        rounded = (f"{s:.1f}" if s >= 10 else f"{s:.3f}" for s in seconds)
        table.add_row(name, used, *rounded, f"{mfu:.0%}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table
