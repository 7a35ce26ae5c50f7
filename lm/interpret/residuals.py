"""The residual stream of a text, by layer.

Dimension key: N layers, B batch, L length, D model width.
"""

import functools
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from lm.interpret.subject import Subject, Text, run_model, sites
from lm.models.parameters import Params


def residuals(subject: Subject, text: Text) -> dict[str, np.ndarray]:
    """Computes the stream as it was embedded and behind each layer, L x D by name.

    Of the first sequence that is read: where there is an encoder and a decoder, the encoder's.
    """
    name, side = next(iter(text.sides.items()))
    ends = (f"{name}layers.in", f"{name}layers.out")
    found = [next(s for s in sites(subject, text.inputs) if s.endswith(end)) for end in ends]
    seen = _seen(subject.model, tuple(found), subject.params, text.inputs)
    into, out = (np.asarray(seen[site])[:, 0, : len(side.ids_L)] for site in found)
    return {"embedding": into[0]} | {f"layer {n}": x_LD for n, x_LD in enumerate(out)}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _seen(
    model: nn.Module, names: tuple[str, ...], params: Params, inputs: Any
) -> dict[str, jax.Array]:
    return run_model(model, params, inputs, keep=names)[1]
