r"""Does the best learning rate of a narrow model hold for wider ones, with muP and without it?

Command:   python launch.py --config=configs/quickstart.py:optimizer=adamw \
               --sweep=configs/sweeps/mup_transfer.py --workdir=runs/transfer
           python -m lm.results.transfer runs/transfer
Hardware:  2 CPU cores; half an hour with --launcher=vmap
Expected:  from width 64 to 256 the best rate falls by 1.23 octaves, and by 0.21 under muP, as in
           Yang et al. 2022, figure 1.

Two layers of heads of 32, 64 to 256 wide, 120 steps of 2,048 tokens: 84 runs.
"""

from configs.sweeping import Overrides, grid, product, seeds, zipped

_BASE = 64
_WIDTHS = [64, 128, 256]
_RATES = [2.0**-e for e in (11, 10, 9, 8, 7, 6, 5)]
_FIXED = {
    "model.num_layers": 2,
    "model.head_dim": 32,
    "model.max_len": 128,
    "data.seq_len": 128,
    "train.num_steps": 120,
    "eval.sample_tokens": 0,
    "eval.compressors": False,
    "checkpoint.every_steps": 0,
}


def sweep(
    widths: list[int] = _WIDTHS, rates: list[float] = _RATES, num_seeds: int = 2, **more
) -> list[Overrides]:
    """Every width, with muP and without, at every rate, for every seed; `more` is fixed."""
    shapes = zipped(_shapes(widths))
    base = {key.replace("model.", "model.mup_"): x[0] for key, x in _shapes([_BASE]).items()}
    base |= {"model.mup_head_dim": _FIXED["model.head_dim"]}
    parametrisations = [dict.fromkeys(base, 0), base]
    rates = grid({"optimizer.peak_lr": rates})
    return product([_FIXED | more], parametrisations, shapes, rates, seeds(num_seeds))


def _shapes(widths: list[int]) -> dict[str, list[int]]:
    return {
        "model.model_dim": widths,
        "model.num_heads": [width // _FIXED["model.head_dim"] for width in widths],
        "model.mlp_dim": [4 * width for width in widths],
    }
