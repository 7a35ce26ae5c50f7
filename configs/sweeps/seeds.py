r"""How much do runs of one config differ by chance?

Command:   python launch.py --config=configs/tag.py:debug --sweep=configs/sweeps/seeds.py \
               --workdir=runs/seeds
           any config of training will do.
Hardware:  that of the config; three runs.
Expected:  python -m lm.results runs/seeds gives means and intervals.
"""

from configs.sweeping import Overrides, seeds


def sweep(num_seeds: int = 3) -> list[Overrides]:
    """The seeds 0, 1, 2, ..."""
    return seeds(num_seeds)
