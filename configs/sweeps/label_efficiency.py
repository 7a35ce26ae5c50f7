r"""How much does pretraining help when labels are few?

Command:   python launch.py --config=configs/classify.py:optimizer=adamw \
               --config.train.num_epochs=0.0 --config.train.num_steps=200 \
               --config.data.truncate=True --config.data.source=python_stdlib:snippets \
               --config.data.seq_len=64 \
               --sweep=configs/sweeps/label_efficiency.py --workdir=runs/label_efficiency
           after: python launch.py --config=configs/families.py:family=bert --workdir=runs/encoder
Hardware:  2 CPU cores

Eight packages are told apart by eight lines of their source. Most of these lines pretraining has
read, those for validation too, but no word of which package they are from.
The random encoder is the same architecture with the same tokenizer, of a run of one step at a rate
of zero; docs/results/README.md has its command. Each has the best of three rates at each number.
"""

from configs.sweeping import grid, product, seeds


def sweep():
    """Pretrained and random encoders by numbers of examples, rates and seeds."""
    return product(
        grid({"init_from": ["runs/encoder", "runs/random_encoder"]}),
        grid({"data.num_examples": [100, 1000, 5000]}),
        grid({"optimizer.peak_lr": [3e-4, 1e-3, 3e-3]}),
        seeds(3),
    )
