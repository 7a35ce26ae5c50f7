r"""Which learning rate, weight decay and warmup are best together?

Command:   python launch.py --sweep=configs/sweeps/search.py --config.eval.every_steps=50 \
               --workdir=runs/search
           on configs/quickstart.py; evaluations on the way are what a trial is given up by.
Hardware:  2 CPU cores: less than 20 quickstarts, under an hour.
Expected:  not run yet.
"""

from typing import Any

from configs import sweeping


def sweep() -> dict[str, Any]:
    """Twenty trials by TPE; what is worse than others after as many evaluations ends early."""
    space = {
        "optimizer.peak_lr": sweeping.log_uniform(1e-3, 1e-1),
        "optimizer.weight_decay": sweeping.uniform(0.0, 0.3),
        "optimizer.warmup_steps": [10, 20, 40],
    }
    return sweeping.search(space, num_trials=20, metric="eval/bits_per_byte")
