"""What a big mesh would send, from a twin that this machine can compile.

Each device of the twin has what a device of the big mesh has: as many rows, heads, MLP columns and
tokens of the vocabulary, of layers as wide. Only its groups are smaller, and its layers fewer. So
an array that a collective takes or gives, which is whole along the group's axes, is as large there
as here; how much of it is sent follows from the size of the group (`collectives.sent_bytes`). What
copies of the parameters add up among themselves, over `data` alone, are gradients that `fsdp` has
cut, and of these a device has less on the big mesh. All is linear in the number of layers.
"""

import json
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence

import jax
import ml_collections
import numpy as np
from jax.sharding import NamedSharding

from experiments.wiring import objectives, pretraining
from lm.corpus.rows import abstract_rows
from lm.costs.collectives import Collectives, Traffic, collectives_of
from lm.parallel.batches import batch_spec
from lm.system.cache import cache_folder
from lm.tokenizers.vocabulary import Vocabulary

# A layer apart; of a single one the compiler might leave out the loop.
_NUM_LAYERS = (2, 3)
_CUT_BY_TENSOR = ("num_heads", "num_kv_heads", "mlp_dim", "vocab_size")


def small_sizes(axis_sizes: Mapping[str, int]) -> dict[str, int]:
    """The twin's mesh: of each axis its least factor above 1; `sequence` stays, for it cuts one
    row, whose keys each device gathers whole."""
    least = lambda n: next((i for i in range(2, n + 1) if n % i == 0), 1)
    return {a: n if a == "sequence" else least(n) for a, n in axis_sizes.items()}


def shrunk(
    config: ml_collections.ConfigDict, axis_sizes: Mapping[str, int], small: Mapping[str, int]
) -> ml_collections.ConfigDict:
    """A copy whose devices do on the mesh `small` what those of `config` do on `axis_sizes`."""
    config = config.copy_and_resolve_references()
    for name in _CUT_BY_TENSOR:
        if name in config.model:
            config.model[name] = config.model[name] // axis_sizes["tensor"] * small["tensor"]
    few, many = (sizes["data"] * sizes["fsdp"] for sizes in (small, axis_sizes))
    config.data.batch_size = config.data.batch_size // many * few
    config.eval.update(batch_size=few, sample_tokens=0)
    config.parallel.update(small, strategy="jit")
    return config


def collectives(config: ml_collections.ConfigDict, axis_sizes: Mapping[str, int]) -> Collectives:
    """What a step of `config` sends on a mesh of these sizes, estimated in a process of its own.

    The number of simulated devices is chosen when JAX starts, and this process has started it.
    """
    small = small_sizes(axis_sizes)
    twin = shrunk(config, axis_sizes, small)
    if twin.model.dtype == "bfloat16":  # Which the compiler for CPUs widens; this is as large.
        twin.model.dtype = "float16"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(math.prod(small.values())),
    }
    done = subprocess.run(
        [sys.executable, "-m", "experiments.twin"],
        input=twin.to_json(),
        capture_output=True,
        text=True,
        env=environment,
        cwd=pathlib.Path(__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    cut = small["fsdp"] / axis_sizes["fsdp"]
    return {
        (kind, tuple(axes)): Traffic(count, num_bytes * (cut if axes == ["data"] else 1))
        for kind, axes, (count, num_bytes) in found
    }


def of_all_layers(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> Collectives:
    """Of all layers of `config`, from two compilations with few of them."""
    num_layers = config.model.num_layers
    if num_layers <= max(_NUM_LAYERS):
        return compiled(config, devices)
    fewer, more = (compiled(_with_layers(config, few), devices) for few in _NUM_LAYERS)
    steps = (num_layers - _NUM_LAYERS[0]) / (_NUM_LAYERS[1] - _NUM_LAYERS[0])
    none = Traffic(0, 0)
    extended = {}
    for key in fewer | more:
        pairs = zip(fewer.get(key, none), more.get(key, none), strict=True)
        extended[key] = Traffic(*(a + steps * (b - a) for a, b in pairs))
    return {key: traffic for key, traffic in extended.items() if min(traffic) > 0}


def _with_layers(config: ml_collections.ConfigDict, num_layers: int) -> ml_collections.ConfigDict:
    config = config.copy_and_resolve_references()
    config.model.num_layers = num_layers
    return config


def compiled(config: ml_collections.ConfigDict, devices: Sequence[jax.Device]) -> Collectives:
    """The collectives of one step of `config`, compiled but never run: no array is made."""
    parts = pretraining.make_parts(config, devices)
    abstract = pretraining.abstract_state(parts)
    objective = objectives.make_objective(
        config.objective.to_dict(),
        architecture=pretraining.family_block(config.model).architecture,
        vocabulary=_vocabulary(config.model.vocab_size),
        seq_len=config.data.seq_len,
    )
    rows = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape,
            x.dtype,
            sharding=NamedSharding(parts.mesh, batch_spec(x, parts.mesh)),
        ),
        abstract_rows(config.data.batch_size, config.data.seq_len),
    )
    shardings = jax.tree.map(lambda x: x.sharding, abstract)
    step = jax.jit(
        pretraining.step_function(parts, objective, config),
        donate_argnums=0,
        out_shardings=(shardings, None),
    )
    # Nothing will run, so machine code may be slow.
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    program = step.lower(abstract, rows, jax.random.key(0)).compile(compiler_options=options)
    return collectives_of(program.as_text(), parts.mesh.shape)


def _vocabulary(size: int) -> Vocabulary:
    """Any one of this size will do: no token is read."""
    none_V = np.zeros(size, bool)
    return Vocabulary(0, 1, 2, np.arange(3, min(size, 103)), none_V, none_V, none_V)


def main() -> None:
    """Reads a twin's config from stdin; prints kind, axes and traffic of its collectives."""
    jax.config.update("jax_compilation_cache_dir", str(cache_folder("xla")))
    config = ml_collections.ConfigDict(json.loads(sys.stdin.read()))
    found = of_all_layers(config, jax.devices())
    print(json.dumps([[kind, axes, traffic] for (kind, axes), traffic in found.items()]))


if __name__ == "__main__":
    main()
