r"""GPT-2 (Radford et al. 2019, table 2) on text of one's own.

Command:   python launch.py --config=configs/gpt2.py:size=small --workdir=runs/gpt2 \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
Hardware:  one 80 GB GPU for size=small; `debug` takes seconds on a CPU.
Expected:  not run yet at full size.

The paper gives no optimiser; the values are GPT-3's for this size (Brown et al. 2020, appendix B).
"""

import ml_collections

from configs import common

_SHAPES = {  # layers, heads, width
    "small": (12, 12, 768),
    "medium": (24, 16, 1024),
    "large": (36, 20, 1280),
    "xl": (48, 25, 1600),
}
_PEAK_LR = {"small": 6e-4, "medium": 3e-4, "large": 2.5e-4, "xl": 2e-4}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size=small|medium|large|xl, objective=causal|prefix|mixture, tokenizer,
    sources=a+b, optimizer, schedule, debug; mup=small|..., the size whose rate holds under muP
    (docs/mup.md).
    """
    arg = common.parse_arg(
        arg,
        size="small",
        objective="causal",
        tokenizer="bpe",
        sources="",
        optimizer="adamw",
        schedule="cosine",
        mup="",
        debug=False,
    )
    num_layers, num_heads, width = common.choose("size", arg.size, _SHAPES)
    model = common.gpt2_model(num_layers, num_heads, 64, width, vocab_size=50257, max_len=1024)
    if arg.mup:
        _, num_heads, width = common.choose("mup", arg.mup, _SHAPES)
        model |= common.mup(num_heads, 64, width, 4 * width)
    return common.gpt_pretraining(
        model,
        peak_lr=_PEAK_LR[arg.mup or arg.size],
        batch_size=512,
        accumulate_steps=16,  # 32 rows at once, which one GPU holds at size=small.
        num_steps=100_000,
        arg=arg,
    )
