"""How long an asynchronous save stops training, beside the same save waited for.

    python -m benchmarks.checkpoint

Prints one JSON line. Between saves a step overwrites the state, as in training.
"""

import json
import pathlib
import statistics
import tempfile
import time

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint

from lm.train.checkpoints import Checkpoints
from lm.train.state import TrainState

_ROUNDS = 7
_TARGET_BYTES = 100_000_000


def main() -> None:
    """Saves about 100 MB of parameters and Adam's two moments, again and again."""
    tx = optax.adamw(1e-3)
    per_matrix = 1024 * 512 * 4
    num_matrices = round(_TARGET_BYTES / 3 / per_matrix)
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
        for i in range(_ROUNDS):
            start = time.perf_counter()
            checkpoints.save(i, state, {}, {})
            blocked_seconds.append(time.perf_counter() - start)
            state = jax.block_until_ready(step(state))
            checkpoints.wait()
            total_seconds.append(time.perf_counter() - start)

    blocked, total = statistics.median(blocked_seconds[1:]), statistics.median(total_seconds[1:])
    print(
        json.dumps(
            {
                "benchmark": "checkpoint",
                "state_bytes": num_bytes,
                "blocked_seconds": round(blocked, 4),
                "target_seconds": 0.2,
                "synchronous_seconds": round(total, 4),
                "ratio": round(blocked / total, 3),
                "rounds": _ROUNDS - 1,
                "device": jax.devices()[0].device_kind,
                "jax": jax.__version__,
                "orbax": orbax.checkpoint.__version__,
            }
        )
    )


if __name__ == "__main__":
    main()
