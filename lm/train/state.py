"""What a training run carries from step to step."""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from lm.models.parameters import Params


@struct.dataclass
class TrainState:
    """All that a checkpoint must hold, and nothing that it must not.

    Random keys are `fold_in(key, step)`, so none is kept here.
    """

    step: jax.Array
    params: Params
    opt_state: optax.OptState

    @classmethod
    def create(cls, params: Params, tx: optax.GradientTransformation) -> "TrainState":
        """The state before the first step."""
        return cls(jnp.zeros((), jnp.int32), params, tx.init(params))
