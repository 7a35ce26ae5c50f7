r"""Which optimiser learns fastest where each gets as many learning rates and seeds?

Command:   python launch.py --config=configs/quickstart.py --config.data.seq_len=128 \
               --config.eval.sample_tokens=0 --config.eval.compressors=False \
               --config.eval.every_steps=20 \
               --sweep=configs/sweeps/optimizers.py --workdir=runs/optimizers
           any config that takes the argument optimizer= will do.
Hardware:  2 CPU cores; 30 runs of two to three minutes
Expected:  docs/results/README.md
"""

from configs import sweeping

_PEAK_LR = {"adamw": 5e-3, "lion": 1e-3, "muon": 1e-2}


def sweep() -> list[sweeping.Overrides]:
    """A quarter to four times the rate that each has by itself, two seeds each."""
    rates = [
        {"arg": f"optimizer={name}", "optimizer.peak_lr": factor * rate}
        for name, rate in _PEAK_LR.items()
        for factor in (0.25, 0.5, 1.0, 2.0, 4.0)
    ]
    return sweeping.product(rates, sweeping.seeds(2))
