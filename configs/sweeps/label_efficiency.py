r"""How much does pretraining help when labels are few?

Command:   python launch.py --config=configs/classify.py:optimizer=adamw \
               --config.train.num_epochs=0.0 --config.train.num_steps=300 \
               --config.data.truncate=True \
               --sweep=configs/sweeps/label_efficiency.py --workdir=runs/label_efficiency
           after: python launch.py --config=configs/families.py:family=bert --workdir=runs/encoder
Hardware:  2 CPU cores

The random encoder is the same architecture with the same tokenizer, of a run of one step at a rate
of zero; docs/results/README.md has its command.
"""

from configs.sweeping import grid, product, seeds


def sweep():
    """Pretrained and random encoders by numbers of examples and seeds."""
    encoders = grid({"init_from": ["runs/encoder", "runs/random_encoder"]})
    return product(encoders, grid({"data.num_examples": [100, 1000, 5000]}), seeds(3))
