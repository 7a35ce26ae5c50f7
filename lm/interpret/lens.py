"""What a decoder would predict at each layer: the logit lens, and the tuned lens.

Dimension key:
  N layers, the embedding included    B batch    L length    D model width    V vocabulary
  K likeliest tokens
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from lm.errors import UserError
from lm.interpret.subject import Subject, Text, run_model
from lm.models import t5
from lm.models.parameters import Params
from lm.train.step import TrainState, train_step

_TOP = 5
Translators = dict[str, jax.Array]  # "kernel", N x D x D, and "bias", N x D, of what is added.


class LensReading(NamedTuple):
    """What each layer predicts of each position, from the embedding to the last one.

    top_NLK, probs_NLK: ids of the likeliest tokens, and their probabilities.
    kl_NL: from what the model predicts to this, in nats; 0 at the last layer.
    """

    top_NLK: np.ndarray
    probs_NLK: np.ndarray
    kl_NL: np.ndarray


def check_lens(subject: Subject) -> None:
    """Raises UserError where a model has no lens, and says why."""
    if subject.body:
        raise UserError(
            f"{subject.folder} does {subject.kind}, and has no output of tokens to read layers "
            "by; what=lens is for language models"
        )
    if subject.architecture == "encoder":
        raise UserError(
            f"{subject.folder} normalises the residual stream behind each layer (post-norm), so "
            "that no final norm and output fit all of its layers; what=lens is for decoders"
        )


def lens_logits(model: nn.Module, params: Params, x_BLD: jax.Array) -> jax.Array:
    """Applies a model's own final norm and output to a residual stream: float32, B x L x V."""

    def unembed(model, x_BLD):
        norm = model.decoder.final_norm if isinstance(model, t5.T5) else model.final_norm
        return model.unembed(norm(x_BLD)).logits()

    return model.apply({"params": params}, x_BLD, method=unembed).astype(jnp.float32)


def streams(model: nn.Module, params: Params, inputs: Mapping[str, Any]) -> jax.Array:
    """Computes the residual stream: as it was embedded, and behind each layer, N x B x L x D."""
    prefix = "decoder/" if isinstance(model, t5.T5) else ""
    into, out = f"{prefix}layers.in", f"{prefix}layers.out"
    _, seen = run_model(model, params, inputs, keep=(into, out))
    return jnp.concatenate([seen[into][:1], seen[out]])


def zero_translators(subject: Subject) -> Translators:
    """Makes the translators that change nothing, by which the tuned lens is the logit lens."""
    config = subject.model.config
    N, D = config.num_layers + 1, config.model_dim
    return {"kernel": jnp.zeros((N, D, D)), "bias": jnp.zeros((N, D))}


def read_lens(subject: Subject, text: Text, translators: Translators | None = None) -> LensReading:
    """Reads all layers of a text, through translators where there are any.

    The logit lens (nostalgebraist 2020) is the one without.

    Raises:
      UserError: see `check_lens`.
    """
    check_lens(subject)
    translators = zero_translators(subject) if translators is None else translators
    length = len(text.written.ids_L)
    found = _read(subject.model, subject.params, translators, text.inputs)
    return LensReading(*(np.asarray(x)[:, 0, :length] for x in found))


@functools.partial(jax.jit, static_argnames="model")
def _read(model, params, translators, inputs):
    x_NBLD = streams(model, params, inputs)
    last_BLV = jax.nn.log_softmax(lens_logits(model, params, x_NBLD[-1]))

    def of_layer(layer):
        x_BLD, kernel_DD, bias_D = layer
        logits_BLV = lens_logits(model, params, _translated(x_BLD, kernel_DD, bias_D))
        log_probs_BLV = jax.nn.log_softmax(logits_BLV)
        top_BLK, ids_BLK = jax.lax.top_k(log_probs_BLV, min(_TOP, log_probs_BLV.shape[-1]))
        return ids_BLK, jnp.exp(top_BLK), _kl(last_BLV, log_probs_BLV)

    # A layer at a time: logits of all would be N x B x L x V.
    return jax.lax.map(of_layer, (x_NBLD, translators["kernel"], translators["bias"]))


def _translated(x_BLD: jax.Array, kernel_DE: jax.Array, bias_E: jax.Array) -> jax.Array:
    """Adds an affine map of the stream to it (Belrose et al. 2023, eq. 8)."""
    x32_BLD = x_BLD.astype(jnp.float32)
    added_BLE = jnp.einsum("BLD,DE->BLE", x32_BLD, kernel_DE) + bias_E[None, None]
    return (x32_BLD + added_BLE).astype(x_BLD.dtype)


def _kl(log_p_BLV: jax.Array, log_q_BLV: jax.Array) -> jax.Array:
    """Gives sum p (log p - log q), in nats."""
    return jnp.sum(jnp.exp(log_p_BLV) * (log_p_BLV - log_q_BLV), axis=-1)


def train_translators(
    subject: Subject, texts: Sequence[Text], *, num_steps: int, peak_lr: float, batch_size: int
) -> Translators:
    """Trains translators towards the least KL to the last layer (Belrose et al. 2023, eq. 9).

    Those of the last layer stay at nothing. A step is a pure function of its number: texts come in
    their order, over and over.

    Args:
      subject: its parameters stay as they are.
      texts: to train on.
      num_steps: of Adam, whose rate falls linearly to 0.
      peak_lr: its first rate.
      batch_size: texts a step.

    Raises:
      UserError: see `check_lens`.
    """
    check_lens(subject)
    rows = _rows([text.inputs for text in texts])
    tx = optax.adam(optax.linear_schedule(peak_lr, 0.0, num_steps))

    def loss_fn(translators, inputs, key):
        del key
        x_NBLD = streams(subject.model, subject.params, inputs)
        logits_of = functools.partial(lens_logits, subject.model, subject.params)
        last_BLV = jax.nn.log_softmax(logits_of(x_NBLD[-1]))
        weights_BL = (inputs["segment_ids_BL"] > 0).astype(jnp.float32)

        def of_layer(total, layer):
            x_BLD, kernel_DD, bias_D = layer
            logits_BLV = logits_of(_translated(x_BLD, kernel_DD, bias_D))
            return total + jnp.sum(_kl(last_BLV, jax.nn.log_softmax(logits_BLV)) * weights_BL), None

        layers = x_NBLD[:-1], translators["kernel"][:-1], translators["bias"][:-1]
        total, _ = jax.lax.scan(jax.checkpoint(of_layer), jnp.zeros(()), layers)
        return {"loss": total, "nll": total, "num_tokens": jnp.sum(weights_BL)}

    @jax.jit
    def step(state, inputs):
        return train_step(
            state, inputs, jax.random.key(0), loss_fn=loss_fn, tx=tx, accumulate_steps=1
        )

    state = TrainState.create(zero_translators(subject), tx)
    for i in range(num_steps):
        at = np.arange(i * batch_size, (i + 1) * batch_size) % len(texts)
        state, _ = step(state, {name: x[at] for name, x in rows.items()})
    return state.params


def _rows(inputs: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Joins rows of one text each, filled up to the longest."""
    found = {}
    for name in inputs[0]:
        size = max(one[name].shape[1] for one in inputs)
        # Positions go on, the rest is 0: padding.
        mode = dict(mode="edge") if name == "positions_BL" else {}
        rows = [np.pad(x := one[name], ((0, 0), (0, size - x.shape[1])), **mode) for one in inputs]
        found[name] = np.concatenate(rows)
    return found
