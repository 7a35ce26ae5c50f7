"""Every model family by the name that a config gives it."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models.bert import BERT, BERTConfig
from lm.models.gpt2 import GPT2, GPT2Config
from lm.models.llama import Llama, LlamaConfig
from lm.models.t5 import T5, T5Config
from lm.train.state import Params


class Family(NamedTuple):
    """A frozen dataclass of hyperparameters, the module that takes one, and what it is.

    architecture: decoder, encoder or encoder_decoder; says what the module reads, see `inputs`.
    biased: it adds something to attention's scores.
    """

    config: type[Any]
    module: type[nn.Module]
    architecture: str
    biased: bool = False


FAMILIES = {
    "bert": Family(BERTConfig, BERT, "encoder"),
    "gpt2": Family(GPT2Config, GPT2, "decoder"),
    "llama": Family(LlamaConfig, Llama, "decoder"),
    "t5": Family(T5Config, T5, "encoder_decoder", biased=True),
}


def family_of(model: nn.Module) -> Family:
    """The family that a module belongs to."""
    return next(family for family in FAMILIES.values() if family.module is type(model))


def init_params(model: nn.Module, key: jax.Array) -> Params:
    """Random parameters; under `jax.eval_shape`, their shapes."""
    names = ["tokens_BL", "segment_ids_BL"]
    if family_of(model).architecture == "encoder_decoder":
        names += ["encoder_tokens_BM", "encoder_segment_ids_BM"]
    else:
        names += ["positions_BL"]
    return model.init(key, **{name: jnp.zeros((1, 1), jnp.int32) for name in names})["params"]


def param_shapes(model: nn.Module) -> Params:
    """The parameter tree without any array."""
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
