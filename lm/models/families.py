"""The model families, by the names that configs give them."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from lm.models import bert, gpt2, llama, mup, t5
from lm.models.parameters import Params


class Family(NamedTuple):
    """A frozen dataclass of hyperparameters, the modules that take one, and their properties.

    module: with the output that it is pretrained with: of tokens it makes `LazyLogits`, and so does
      its method `decode_step`, which an encoder lacks, of new tokens and caches.
    body: its part with `hidden_states`, for task models; of an encoder_decoder the encoder.
    body_path: where the parameters of the body stand among those of the module.
    architecture: decoder, encoder or encoder_decoder.
    biased: it adds something to attention's scores.
    """

    config: type[Any]
    module: type[nn.Module]
    body: type[nn.Module]
    body_path: tuple[str, ...]
    architecture: str
    biased: bool = False


FAMILIES = {
    "bert": Family(bert.BERTConfig, bert.BERT, bert.Encoder, ("encoder",), "encoder"),
    "gpt2": Family(gpt2.GPT2Config, gpt2.GPT2, gpt2.GPT2, (), "decoder"),
    "llama": Family(llama.LlamaConfig, llama.Llama, llama.Llama, (), "decoder"),
    "t5": Family(t5.T5Config, t5.T5, t5.Encoder, (), "encoder_decoder", biased=True),
}


def family_of(model: nn.Module) -> Family:
    """Finds the family that a module belongs to."""
    return next(family for family in FAMILIES.values() if family.module is type(model))


def init_params(model: nn.Module, key: jax.Array) -> Params:
    """Draws random parameters; under `jax.eval_shape`, their shapes."""
    names = ["tokens_BL", "segment_ids_BL"]
    if family_of(model).architecture == "encoder_decoder":
        names += ["encoder_tokens_BM", "encoder_segment_ids_BM"]
    else:
        names += ["positions_BL"]
    # No parameter depends on the length, so one token will do.
    params = model.init(key, **{name: jnp.zeros((1, 1), jnp.int32) for name in names})["params"]
    return mup.scaled_init(model.config, params)


def random_like(model: nn.Module, params: Params, seed: int) -> Params:
    """Draws random parameters, cut over devices as these are."""
    leaves, tree = jax.tree.flatten(jax.tree.map(lambda x: x.sharding, params))
    return _draw(model, tuple(leaves), tree)(jax.random.key(seed))


@functools.lru_cache(maxsize=2)  # Of several seeds the first one compiles.
def _draw(model: nn.Module, shardings: tuple, tree: Any) -> Callable[[jax.Array], Params]:
    shardings = jax.tree.unflatten(tree, shardings)
    return jax.jit(functools.partial(init_params, model), out_shardings=shardings)


def param_shapes(model: nn.Module) -> Params:
    """Gives the parameter tree without any array."""
    return jax.eval_shape(lambda key: init_params(model, key), jax.random.key(0))
