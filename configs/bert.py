r"""BERT (Devlin et al. 2019), and its small sizes (Turc et al. 2019), by masked language modelling.

Command:   python launch.py --config=configs/bert.py:size=base --workdir=runs/bert \
               --config.data.source=text --config.data.train='corpus/train/*.txt.zst' \
               --config.data.validation='corpus/validation/*.txt.zst'
Hardware:  one 80 GB GPU for size=base; `debug` takes seconds on a CPU.
Expected:  not run yet at full size.

Rates, batch, steps and dropout are those of the paper's appendix A.2. Its rows hold 128 tokens for
the first 90 % of the steps, where these always hold 512. Masks are drawn anew each time a row is
seen (Liu et al. 2019). The next-sentence head is there, as published, and nothing trains it.
"""

import ml_collections

from configs import common

_SHAPES = {  # layers, width; heads are 64 wide
    "tiny": (2, 128),
    "mini": (4, 256),
    "small": (4, 512),
    "medium": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """`arg`: size=tiny|mini|small|medium|base|large, tokenizer, sources=a+b,
    optimizer, schedule, debug.
    """
    arg = common.parse_arg(
        arg,
        size="base",
        tokenizer="bpe",
        sources="",
        optimizer="adamw",
        schedule="linear",
        debug=False,
    )
    num_layers, width = common.choose("size", arg.size, _SHAPES)
    optimizer = common.optimizer(arg.optimizer, arg.schedule, peak_lr=1e-4, warmup_steps=10_000)
    if arg.optimizer == "adamw":
        optimizer.update(b1=0.9, b2=0.999, eps=1e-6, weight_decay=0.01)
    if "final_lr_ratio" in optimizer:
        optimizer["final_lr_ratio"] = 0.0
    return common.pretraining(
        bert_model(num_layers, width, vocab_size=30522, max_len=512),
        objective=masked(),
        seq_len=512,
        vocab_size=30522,
        mask=True,
        optimizer=optimizer,
        batch_size=256,
        accumulate_steps=2,
        num_steps=1_000_000,
        arg=arg,
    )


def masked() -> dict:
    """The objective block of the paper; whole words are its later option."""
    return common.objective("masked") | dict(
        rate=0.15,  # Share of a row's tokens that is chosen, to be predicted.
        mask_share=0.8,  # Share of the chosen tokens that a mask token hides.
        random_share=0.1,  # Share of them that a random token replaces; the rest is shown.
        whole_words=False,  # Whether all tokens of a word are chosen together.
    )


def bert_model(num_layers: int, width: int, *, vocab_size: int, max_len: int) -> dict:
    """The model block of a BERT."""
    shape = (num_layers, width // 64, 64, width, 4 * width)
    return dict(
        **common.model_size("bert", *shape, vocab_size=vocab_size),
        max_len=max_len,  # Learned positions, which is the most tokens of a row.
        position_offset=0,  # Rows of the table of positions before position 0; 2 in RoBERTa.
        num_types=2,  # Kinds of segments, such as first and second text.
        norm_epsilon=1e-12,  # Added to the variance that a norm divides by.
        next_sentence=True,  # Whether there are a pooler and a next-sentence head.
        **common.with_dropout(0.1),
    )
