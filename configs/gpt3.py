r"""The eight dense shapes of GPT-3 (Brown et al. 2020, table 2.1).

Command:   python launch.py --config=configs/gpt3.py:size=small --workdir=runs/gpt3 \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
           python launch.py --config=configs/gpt3.py:size=175b --dry_run --devices=512 \
               --config.parallel.data=1 --config.parallel.fsdp=512 --config.eval.batch_size=512 \
               --config.model.remat=full
Hardware:  one 80 GB GPU for size=small; `debug` takes seconds on a CPU.
Expected:  not run yet; the second command, on any machine, gives each of 512 devices 29 GB; see
           docs/big_meshes.md.

Rates are the table's; its batches of 0.5M to 3.2M tokens are rounded to a multiple of 256 rows of
2,048, which divides among devices. Its row for 1.3B prints 24 heads of 128 at width 2,048, which
gives 1.6B parameters; 16 heads give the 1.3B that it names. Every layer attends densely, where the
paper alternates with banded ones.
"""

import ml_collections

from configs import common

_SIZES = {  # layers, heads, head width, model width, peak rate, rows a batch
    "small": (12, 12, 64, 768, 6.0e-4, 256),
    "medium": (24, 16, 64, 1024, 3.0e-4, 256),
    "large": (24, 16, 96, 1536, 2.5e-4, 256),
    "xl": (24, 16, 128, 2048, 2.0e-4, 512),
    "2.7b": (32, 32, 80, 2560, 1.6e-4, 512),
    "6.7b": (32, 32, 128, 4096, 1.2e-4, 1024),
    "13b": (40, 40, 128, 5140, 1.0e-4, 1024),
    "175b": (96, 96, 128, 12288, 0.6e-4, 1536),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size (one of the table above), objective=causal|prefix|mixture, tokenizer,
    sources=a+b, optimizer, schedule, debug.
    """
    arg = common.parse_arg(
        arg,
        size="small",
        objective="causal",
        tokenizer="bpe",
        sources="",
        optimizer="adamw",
        schedule="cosine",
        debug=False,
    )
    num_layers, num_heads, head_dim, width, peak_lr, batch_size = common.choose(
        "size", arg.size, _SIZES
    )
    return common.gpt_pretraining(
        common.gpt2_model(num_layers, num_heads, head_dim, width, vocab_size=50257, max_len=2048),
        peak_lr=peak_lr,
        batch_size=batch_size,
        accumulate_steps=16 if arg.size == "small" else 1,
        num_steps=round(300e9 / (batch_size * 2048)),
        arg=arg,
    )
