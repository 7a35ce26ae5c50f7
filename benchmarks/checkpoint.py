"""How long an asynchronous save stops training, beside the same save waited for.

`python -m benchmarks.checkpoint` prints one JSON line. Between saves a step overwrites the state,
as in training.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import optax

from benchmarks import results
from lm.train.checkpoints import Checkpoints
from lm.train.step import TrainState

TARGET_SECONDS = 0.2


def main() -> None:
    """Saves parameters and Adam's two moments, again and again."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=6)
    args = parser.parse_args()
    tx = optax.adamw(1e-3)
    per_matrix = 1024 * 512 * 4
    num_matrices = max(1, round(args.megabytes * 1e6 / 3 / per_matrix))
    params = {f"kernel_{i}": jnp.ones((1024, 512)) * i for i in range(num_matrices)}
    state = TrainState.create(params, tx)
    num_bytes = sum(x.nbytes for x in jax.tree.leaves(state))
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    state = jax.block_until_ready(step(state))

    blocked_seconds, total_seconds = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        Checkpoints(pathlib.Path(folder), keep_last=2) as checkpoints,
    ):
        for i in range(1 + args.rounds):
            start = time.perf_counter()
            checkpoints.save(i, state, {}, {})
            blocked_seconds.append(time.perf_counter() - start)
            state = jax.block_until_ready(step(state))
            checkpoints.wait()
            total_seconds.append(time.perf_counter() - start)

    blocked, total = statistics.median(blocked_seconds[1:]), statistics.median(total_seconds[1:])
    results.emit(
        "checkpoint",
        device=jax.devices()[0].device_kind,
        packages=("jax", "orbax-checkpoint"),
        shape={"megabytes": round(num_bytes / 1e6, 1)},
        unit="seconds",
        ours=round(blocked, 4),
        peer="the same save, waited for",
        theirs=round(total, 4),
        ratio=round(total / blocked, 2),
        target={"seconds": TARGET_SECONDS},
        note="How long training stops.",
        rounds=args.rounds,
    )


if __name__ == "__main__":
    main()
