r"""Does the loss of small models follow a power law of parameters and tokens?

Command:   python launch.py --config=configs/quickstart.py \
               --config.eval.sample_tokens=0 --config.eval.compressors=False \
               --config.data.seq_len=128 --sweep=configs/sweeps/scaling.py --workdir=runs/scaling
Hardware:  2 CPU cores

Five widths at four layers, each trained over four numbers of steps with a schedule of that length,
as Hoffmann et al. 2022, section 3, found to be needed. The head's width is 16 throughout.
"""

from configs.sweeping import grid, product, zipped

_WIDTHS = [16, 32, 48, 64, 96]


def sweep():
    """Widths by numbers of steps."""
    widths = zipped(
        {
            "model.model_dim": _WIDTHS,
            "model.mlp_dim": [4 * width for width in _WIDTHS],
            "model.num_heads": [width // 16 for width in _WIDTHS],
        }
    )
    steps = grid({"model.head_dim": [16], "train.num_steps": [100, 200, 400, 800]})
    return product(widths, steps)
