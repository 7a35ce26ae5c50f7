"""How much each token of a text adds to a number of the output.

Dimension key: B batch, L length, D model width, N layers, H heads, M key length, K nodes.
"""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.interpret.attention_maps import attention_maps
from lm.interpret.capture import Patch
from lm.interpret.subject import Subject, Text, run_model, seen, sites
from lm.interpret.targets import Target
from lm.models.parameters import Params

BASELINES = ("zero", "pad", "mask", "mean")
METHODS = ("integrated_gradients", "gradient_x_input", "saliency", "attention_rollout")
_NODES_AT_ONCE = 10  # Of an integral: on a CPU one alone leaves cores without work.
Embedded = dict[str, jax.Array]  # By the names of sites, B x L x D each.


class Attributions(NamedTuple):
    """What each number of the embedded text adds, by the names of its sites: L x D each.

    value, baseline_value: the number that is explained, of the text and of the baseline.
    gap: how much the sum misses of their difference; None where nothing says that it should not.
    """

    by_site: dict[str, np.ndarray]
    value: float
    baseline_value: float | None
    gap: float | None


def embedding_sites(subject: Subject, text: Text) -> tuple[str, ...]:
    """Names the sites of embedded tokens: one, or an encoder's and a decoder's."""
    return tuple(name for name in sites(subject, text.inputs) if name.endswith("embedding.out"))


def integrated_gradients(
    subject: Subject, text: Text, target: Target, *, baseline: str, num_nodes: int
) -> Attributions:
    """Integrates gradients from a baseline to the text (Sundararajan et al. 2017, eq. 1).

    By Gauss-Legendre nodes, whose sum is exact for polynomials of degree 2 K - 1.

    Args:
      subject, text, target: what is explained.
      baseline: of embeddings: "zero"; those of the same text with a "pad" or "mask" token in the
        place of each; or their "mean" over the text.
      num_nodes: at which gradients are taken.

    Raises:
      UserError: there is no such token.
    """
    x, start = _ends(subject, text, baseline)
    nodes_K, weights_K = np.polynomial.legendre.leggauss(num_nodes)
    # From [-1, 1] to [0, 1].
    at_K, weights_K = jnp.asarray((nodes_K + 1) / 2), jnp.asarray(weights_K / 2)
    found, value, first = _integrate(
        subject.model, target, subject.params, text.inputs, x, start, at_K, weights_K
    )
    by_site = _of_text(text, found)
    total = sum(float(array.sum(dtype=np.float64)) for array in by_site.values())
    return Attributions(by_site, float(value), float(first), total - (float(value) - float(first)))


def gradient_x_input(subject: Subject, text: Text, target: Target) -> Attributions:
    """Multiplies the gradient by what was embedded (Shrikumar et al. 2016)."""
    value, grads, x = _gradients(subject, text, target)
    return Attributions(_of_text(text, jax.tree.map(jnp.multiply, grads, x)), value, None, None)


def saliency(subject: Subject, text: Text, target: Target) -> Attributions:
    """Gives the absolute gradient (Simonyan et al. 2013)."""
    value, grads, _ = _gradients(subject, text, target)
    return Attributions(_of_text(text, jax.tree.map(jnp.abs, grads)), value, None, None)


def attention_rollout(subject: Subject, text: Text) -> dict[str, np.ndarray]:
    """Follows attention back through all layers (Abnar and Zuidema 2020, eq. 1): L x M by site.

    The mean over heads, with the residual stream as half of each layer; rows sum to 1. Of attention
    to the same sequence alone.
    """
    found = {}
    for name, probs_NHLM in attention_maps(subject, text).items():
        if "cross_attention" in name:
            continue
        rolled_LM = np.eye(probs_NHLM.shape[-1])
        for mean_LM in probs_NHLM.astype(np.float64).mean(axis=1):
            mixed_LM = (mean_LM + np.eye(len(mean_LM))) / 2
            rolled_LM = (mixed_LM / mixed_LM.sum(axis=1, keepdims=True)) @ rolled_LM
        found[name] = rolled_LM
    return found


def _of_text(text: Text, arrays: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Takes the padding away."""
    length = lambda name: len(text.side(name).ids_L)
    return {name: np.asarray(x_BLD)[0, : length(name)] for name, x_BLD in arrays.items()}


def _embedded(subject: Subject, text: Text, inputs: Mapping[str, Any]) -> Embedded:
    return seen(subject, inputs, embedding_sites(subject, text))


def _ends(subject: Subject, text: Text, baseline: str) -> tuple[Embedded, Embedded]:
    """Embeds the text and its baseline, which are the same where there is padding."""
    x = _embedded(subject, text, text.inputs)
    if baseline == "zero":
        start = jax.tree.map(jnp.zeros_like, x)
    elif baseline == "mean":
        means = {name: one.mean(axis=0) for name, one in _of_text(text, x).items()}
        start = {name: jnp.broadcast_to(means[name], one.shape) for name, one in x.items()}
    else:
        token_id = getattr(subject.run.tokenizer, f"{baseline}_id")
        if token_id is None:
            raise UserError(
                f"baseline={baseline}: the tokenizer of {subject.folder} has no such token; "
                "choose another baseline"
            )
        start = _embedded(subject, text, _filled_with(text.inputs, token_id))
    lengths = {name: len(one) for name, one in _of_text(text, x).items()}
    is_text = {name: (jnp.arange(one.shape[1]) < lengths[name]) for name, one in x.items()}
    start = {
        name: jnp.where(is_text[name][None, :, None], start[name], one) for name, one in x.items()
    }
    return x, start


def _filled_with(inputs: Any, token_id: int) -> Any:
    """Puts a token in the place of all tokens of inputs."""
    if not isinstance(inputs, Mapping):
        return inputs
    return {
        name: np.full_like(value, token_id)
        if name in ("tokens_BL", "encoder_tokens_BM")
        else _filled_with(value, token_id)
        for name, value in inputs.items()
    }


def _value(
    model: nn.Module, target: Target, params: Params, inputs: Any, at: Embedded
) -> jax.Array:
    """Computes the target from embeddings in the place of those of the inputs."""
    patches = {name: Patch(mask=True, value=x) for name, x in at.items()}
    return target.value(run_model(model, params, inputs, patches=patches)[0])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _integrate(model, target, params, inputs, x, start, at_K, weights_K):
    value = functools.partial(_value, model, target, params, inputs)
    gradient = jax.grad(value)

    def weighted(at, weight):
        here = jax.tree.map(
            lambda end, begin: begin + at.astype(end.dtype) * (end - begin), x, start
        )
        return jax.tree.map(lambda g: g.astype(jnp.float32) * weight, gradient(here))

    def add(total, nodes):
        new = jax.tree.map(lambda g: g.sum(axis=0), jax.vmap(weighted)(*nodes))
        return jax.tree.map(jnp.add, total, new), None

    zeros = jax.tree.map(lambda end: jnp.zeros(end.shape, jnp.float32), x)
    # Few at a time: no more memory than their gradients, whatever the number of nodes.
    few = (-1, min(_NODES_AT_ONCE, len(at_K)))
    missing = -len(at_K) % few[1]
    nodes = jnp.pad(at_K, (0, missing), mode="edge"), jnp.pad(weights_K, (0, missing))
    nodes = tuple(z.astype(jnp.float32).reshape(few) for z in nodes)
    total, _ = jax.lax.scan(add, zeros, nodes)
    found = jax.tree.map(lambda g, end, begin: g * (end - begin), total, x, start)
    return found, value(x), value(start)


def _gradients(subject: Subject, text: Text, target: Target) -> tuple[float, Embedded, Embedded]:
    x = _embedded(subject, text, text.inputs)
    value, grads = _value_and_gradient(subject.model, target, subject.params, text.inputs, x)
    return float(value), grads, x


@functools.partial(jax.jit, static_argnums=(0, 1))
def _value_and_gradient(model, target, params, inputs, x):
    return jax.value_and_grad(functools.partial(_value, model, target, params, inputs))(x)
