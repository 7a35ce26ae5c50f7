"""A small mesh, and a config that is to it as the real one is to the big mesh."""

from collections.abc import Mapping

import ml_collections

SHARDED_BY_TENSOR = ("num_heads", "num_kv_heads", "mlp_dim", "vocab_size")


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
    for name in SHARDED_BY_TENSOR:
        if name in config.model:
            config.model[name] = config.model[name] // axis_sizes["tensor"] * small["tensor"]
    few, many = (sizes["data"] * sizes["fsdp"] for sizes in (small, axis_sizes))
    config.data.batch_size = config.data.batch_size // many * few
    config.eval.update(batch_size=few, sample_tokens=0)
    config.parallel.update(small, strategy="jit")
    return config
