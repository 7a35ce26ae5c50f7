"""Whether the numbers of a training config can mean anything, before they train something odd."""

import math
from collections.abc import Callable

import ml_collections

from lm.errors import UserError

_Rule = tuple[Callable[[float], bool], str]
_POSITIVE: _Rule = (lambda x: 1 <= x < math.inf, "be at least 1")
_NOT_NEGATIVE: _Rule = (lambda x: 0 <= x < math.inf, "be a number of at least 0")
_SHARE: _Rule = (lambda x: 0 <= x < 1, "lie in [0, 1)")

_RULES = {
    "lora.rank": _NOT_NEGATIVE,
    "seed": (lambda x: 0 <= x < 2**32, "lie in [0, 2^32)"),
    "train.num_steps": _NOT_NEGATIVE,
    "train.accumulate_steps": _POSITIVE,
    "train.max_skipped": _POSITIVE,
    "train.patience": _NOT_NEGATIVE,
    "log.every_steps": _POSITIVE,
    "eval.every_steps": _NOT_NEGATIVE,
    "eval.sample_tokens": _NOT_NEGATIVE,
    "checkpoint.every_steps": _NOT_NEGATIVE,
    "checkpoint.keep_every": _NOT_NEGATIVE,
    "data.batch_size_per_device": _NOT_NEGATIVE,
    "data.multiple": _POSITIVE,
    "data.seq_len": _POSITIVE,
    "data.num_examples": _NOT_NEGATIVE,
    "data.validation_share": (lambda x: 0 < x < 1, "lie in (0, 1)"),
    "loss.z_loss": _NOT_NEGATIVE,
    "loss.label_smoothing": _SHARE,
    "loss.num_blocks": _POSITIVE,
    "optimizer.peak_lr": _NOT_NEGATIVE,
    "optimizer.warmup_steps": _NOT_NEGATIVE,
    "optimizer.warmup_share": _SHARE,
    "optimizer.final_lr_ratio": _NOT_NEGATIVE,
    "optimizer.clip_norm": _NOT_NEGATIVE,
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.eps": _NOT_NEGATIVE,
    "optimizer.ema_decay": _SHARE,
    "optimizer.beta": _SHARE,
    "optimizer.momentum": _SHARE,
    "optimizer.b1": _SHARE,
    "optimizer.b2": _SHARE,
}


def check_numbers(config: ml_collections.ConfigDict) -> None:
    """Raises UserError at the first number that is out of its range, NaN included."""
    for key, (holds, words) in _RULES.items():
        *blocks, name = key.split(".")
        block = config
        for each in blocks:
            block = block.get(each, {})
        if name in block and not holds(block[name]):
            raise UserError(f"{key}={block[name]} must {words}")
