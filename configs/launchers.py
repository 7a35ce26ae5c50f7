r"""How are the runs of a sweep, or one run, started?

Command:   python launch.py --config=configs/quickstart.py --sweep --launcher=local \
               --launcher.num_parallel=2 --workdir=runs/rates

A block for each launcher; each key is an argument of `run` in experiments/launchers/NAME.py, which
says what it is.
"""

import ml_collections

from configs import common

_BLOCKS = {
    "local": dict(num_parallel=0, devices_per_run=0),
    "vmap": dict(),
    "slurm": dict(),
    "tpu_vm": dict(),
    "skypilot": dict(),
}


def get_config(name: str) -> ml_collections.ConfigDict:
    """`name`: local, vmap, slurm, tpu_vm or skypilot."""
    return ml_collections.ConfigDict(common.choose("launcher", name, _BLOCKS))
