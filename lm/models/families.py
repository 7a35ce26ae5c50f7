"""Every model family by the name that a config gives it."""

from typing import Any, NamedTuple

from flax import linen as nn

from lm.models.gpt2 import GPT2, GPT2Config


class Family(NamedTuple):
    """A frozen dataclass of hyperparameters, and the module that takes one."""

    config: type[Any]
    module: type[nn.Module]


FAMILIES = {
    "gpt2": Family(GPT2Config, GPT2),
}
