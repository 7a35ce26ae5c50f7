r"""The eight dense shapes of GPT-3 (Brown et al. 2020, table 2.1).

Command:   python launch.py --config=configs/gpt3.py:size=small --workdir=runs/gpt3 \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
Hardware:  one 80 GB GPU for size=small; `debug` takes seconds on a CPU.
Expected:  not run yet.

Rates and batch sizes are the table's (batches in tokens, over rows of 2,048). Its row for 1.3B
prints 24 heads of 128 at width 2,048, which gives 1.6B parameters; 16 heads give the 1.3B that it
names. Every layer attends densely, where the paper alternates with banded ones.
"""

import ml_collections

from configs import common

_SIZES = {  # layers, heads, head width, model width, peak rate, tokens a batch
    "small": (12, 12, 64, 768, 6.0e-4, 0.5e6),
    "medium": (24, 16, 64, 1024, 3.0e-4, 0.5e6),
    "large": (24, 16, 96, 1536, 2.5e-4, 0.5e6),
    "xl": (24, 16, 128, 2048, 2.0e-4, 1e6),
    "2.7b": (32, 32, 80, 2560, 1.6e-4, 1e6),
    "6.7b": (32, 32, 128, 4096, 1.2e-4, 2e6),
    "13b": (40, 40, 128, 5140, 1.0e-4, 2e6),
    "175b": (96, 96, 128, 12288, 0.6e-4, 3.2e6),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size=small|medium|large|xl|2.7b|6.7b|13b|175b, optimizer, schedule, debug."""
    arg = common.parse_arg(arg, size="small", optimizer="adamw", schedule="cosine", debug=False)
    num_layers, num_heads, head_dim, width, peak_lr, tokens = common.choose(
        "size", arg.size, _SIZES
    )
    batch_size = round(tokens / 2048 / 16) * 16
    config = common.gpt_pretraining(
        common.gpt2_model(num_layers, num_heads, head_dim, width, vocab_size=50257, max_len=2048),
        peak_lr=peak_lr,
        batch_size=batch_size,
        num_steps=round(300e9 / (batch_size * 2048)),
        optimizer_name=arg.optimizer,
        schedule=arg.schedule,
    )
    return common.debug_size(config) if arg.debug else config
