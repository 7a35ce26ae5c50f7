r"""Which rule reaches a loss in the fewest steps, at an equal budget of tuning?

Command:   python launch.py --config=configs/quickstart.py \
               --config.eval.every_steps=20 --config.eval.sample_tokens=0 \
               --config.eval.compressors=False --config.data.seq_len=128 \
               --sweep=configs/sweeps/optimizers.py --workdir=runs/optimizers
Hardware:  2 CPU cores

Each rule has five peak rates, a factor of two apart around the quickstart's, and the same weight
decay of 0.1, but for Lion, whose authors ask for ten times as much at a tenth of the rate (Chen et
al. 2023, section 5). The rate that is best at the end counts.
"""

from configs.sweeping import grid

_RATES = {"adamw": 5e-3, "lion": 1e-3, "muon": 1e-2}


def sweep():
    """Rules by rates."""
    return [
        override
        for rule, rate in _RATES.items()
        for override in grid(
            {
                "arg": [f"optimizer={rule}"],
                "optimizer.peak_lr": [rate * 2.0**octave for octave in range(-2, 3)],
            }
        )
    ]
