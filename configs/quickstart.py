r"""How well does a small GPT-2 learn real text in minutes on two CPU cores?

Command:   python launch.py
Hardware:  2 CPU cores; 1 min 5 s with preparation, evaluation and a sample, when they were free.
Expected:  1.78 bits per byte of held-out files, where `gzip -9` needs 1.91 and `xz -9` 1.58.

Muon is the default because it learns fastest: as many steps leave AdamW at 2.12 bits per byte,
Adafactor at 2.16 and Lion at 2.17, with the peak rates below, which were not searched further.
SGD's is the best of three on a shorter quickstart: 300 steps of 8 rows of 128 tokens left 2.60 bits
per byte at 0.1, 2.58 at 0.3 and 2.84 at 1.
"""

import ml_collections

from configs import common, corpora, sweeping

_PEAK_LR = {"adamw": 5e-3, "lion": 1e-3, "adafactor": 2e-2, "muon": 1e-2, "sgd": 0.3}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: objective=causal|prefix|mixture, tokenizer, optimizer, schedule, sources=a+b for a
    mixture of corpora (docs/data.md), or debug for a few steps of a tiny model.
    """
    arg = common.parse_arg(
        arg,
        objective="causal",
        tokenizer="bpe",
        sources="",
        optimizer="muon",
        schedule="cosine",
        debug=False,
    )
    config = common.trunk("pretrain")
    config.tokenizer = common.tokenizer(arg.tokenizer, vocab_size=2048)
    config.data = corpora.text_data(256, 16, arg.sources)
    config.objective = common.decoder_objective(arg.objective)
    config.model = common.gpt2_model(4, 2, 64, 128, vocab_size=2048, max_len=256)
    config.loss = common.language_loss()
    config.train = common.train(num_steps=300)
    peak_lr = common.choose("optimizer", arg.optimizer, _PEAK_LR)
    config.optimizer = common.optimizer(
        arg.optimizer, arg.schedule, peak_lr=peak_lr, warmup_steps=20
    )
    config.eval = common.language_eval(every_steps=0, sample_tokens=100, compressors=True)
    config.checkpoint.every_steps = 100
    return common.debug_size(config) if arg.debug else config


def sweep() -> list[sweeping.Overrides]:
    """Which peak learning rate is best, and by how much more than chance?"""
    rates = sweeping.grid({"optimizer.peak_lr": [5e-3, 1e-2, 2e-2]})
    return sweeping.product(rates, sweeping.seeds(3))
