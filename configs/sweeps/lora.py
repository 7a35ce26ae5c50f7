r"""Which rank do adapters need to do as well as training all parameters?

Command:   python launch.py --config=configs/classify.py:optimizer=adamw \
               --config.init_from=runs/encoder --config.train.num_epochs=0.0 \
               --config.train.num_steps=200 --config.data.truncate=True \
               --sweep=configs/sweeps/lora.py --workdir=runs/lora
           after: python launch.py --config=configs/families.py:family=bert --workdir=runs/encoder
Hardware:  2 CPU cores

Hu et al. 2021, table 6, find that rank 1 on queries and values does nearly as well as rank 64. The
head is trained in every run. Full fine-tuning and each rank have the best of three rates; those of
adapters are ten times as high.
"""

from configs.sweeping import grid, product, seeds


def sweep():
    """Ranks, of which 0 is full fine-tuning, by rates and seeds."""
    full = grid({"lora.rank": [0], "optimizer.peak_lr": [3e-4, 1e-3, 3e-3]})
    ranks = {"lora.rank": [1, 8], "lora.targets": ["attention/(query|value)/kernel"]}
    adapters = grid(ranks | {"optimizer.peak_lr": [3e-3, 1e-2, 3e-2]})
    return product(full + adapters, seeds(3))
