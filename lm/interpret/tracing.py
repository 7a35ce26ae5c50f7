"""Where a model keeps what it answers by: activations of one text, patched into another.

Dimension key: N layers, L length, H heads, J positions or heads, P patched runs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.errors import UserError
from lm.interpret import capture
from lm.interpret.capture import Patch
from lm.interpret.subject import Subject, Text, run_model, sites
from lm.interpret.targets import Target

# Of each layer: the residual stream before it, what attention wrote, what its heads give, and what
# its MLP wrote.
SITES = ("layers.in", "layers/attention.out", "layers/attention/out.in", "layers/mlp.out")


class Traced(NamedTuple):
    """What patches of clean activations do to a run on a corrupted text.

    clean, corrupted: the target's number in both.
    effects: by site, N x J: how much the number grows by the patch of a layer and a position; of a
      site with heads, of a layer and a head, at all positions.
    estimates: the same, to first order (Nanda 2023): the gradient of the corrupted run by the site,
      times what the patch would change.
    by_head: the sites that have heads.
    """

    clean: float
    corrupted: float
    effects: dict[str, np.ndarray]
    estimates: dict[str, np.ndarray]
    by_head: frozenset[str]


def trace(
    subject: Subject,
    clean: Text,
    corrupted: Text,
    target: Target,
    *,
    names: Sequence[str],
    chunk_size: int,
) -> Traced:
    """Patches each layer and position, or head, of sites (Meng et al. 2022; Wang et al. 2023).

    All patched runs are one program, so many at a time; how many changes no number.

    Args:
      subject: the model.
      clean, corrupted: texts of as many tokens.
      target: the number that is looked at.
      names: of sites with layers and positions, N x B x L x D, or heads, such as N x B x L x H x K.
      chunk_size: runs at a time.

    Raises:
      UserError: texts of unequal numbers of tokens; a site that is not there, or has no layers.
    """
    check_pair(clean, corrupted)
    shapes = sites(subject, clean.inputs)
    for name in names:
        capture.check_site(name, shapes)
        if "layers" not in name or len(shapes[name].shape) < 4:
            raise UserError(f"sites={name} has no layers and positions; name one such as layers.in")
    fixed = subject.model, target, tuple(names)
    value, seen = _clean_run(*fixed, subject.params, clean.inputs)
    first, grads, here = _corrupted_run(*fixed, subject.params, corrupted.inputs, shapes)
    effects, estimates = {}, {}
    for name in names:
        shape, heads = shapes[name].shape, _heads_dim(name, shapes[name])
        # What fills a text up is no position to patch.
        dim, num = (heads, shape[heads]) if heads else (2, len(corrupted.side(name).ids_L))
        at_P2 = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(num), indexing="ij"), -1)
        found_P = _sweep(
            subject.model,
            target,
            (name, dim),
            chunk_size,
            subject.params,
            corrupted.inputs,
            seen[name],
            jnp.asarray(at_P2.reshape(-1, 2)),
        )
        effects[name] = np.asarray(found_P).reshape(shape[0], num) - float(first)
        change = (grads[name] * (seen[name] - here[name])).astype(jnp.float32)
        others = tuple(i for i in range(len(shape)) if i not in (0, dim))
        estimates[name] = np.asarray(change.sum(others))[:, :num]
    by_head = frozenset(name for name in names if _heads_dim(name, shapes[name]))
    return Traced(float(value), float(first), effects, estimates, by_head)


def _heads_dim(name: str, shape: jax.ShapeDtypeStruct) -> int | None:
    """Finds the dimension of the heads of a site; None where its layers have only positions."""
    if len(shape.shape) < 5:
        return None
    return 2 if name.endswith("/probs.out") else 3  # N x B x H x L x M, or N x B x L x H x K.


def check_pair(clean: Text, corrupted: Text) -> None:
    """Raises UserError where two texts have unequal numbers of tokens."""
    for name, side in clean.sides.items():
        other = corrupted.sides[name]
        if len(side.ids_L) != len(other.ids_L):
            raise UserError(
                f"{clean.name} has {len(side.ids_L)} tokens and {corrupted.name} "
                f"{len(other.ids_L)}; patches go from a position to the same one, so give texts of "
                "as many tokens"
            )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _clean_run(
    model: nn.Module, target: Target, names: tuple[str, ...], params: Any, inputs: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    logits_BLV, seen = run_model(model, params, inputs, keep=names)
    return target.value(logits_BLV), seen


def _corrupted_run(model, target, names, params, inputs, shapes):
    zeros = {name: jnp.zeros(shapes[name].shape, shapes[name].dtype) for name in names}
    (first, here), grads = _with_gradients(model, target, names, params, inputs, zeros)
    return first, grads, here


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _with_gradients(model, target, names, params, inputs, zeros):
    def value(deltas):
        patches = {name: Patch(delta=delta) for name, delta in deltas.items()}
        logits_BLV, seen = run_model(model, params, inputs, keep=names, patches=patches)
        return target.value(logits_BLV), seen

    return jax.value_and_grad(value, has_aux=True)(zeros)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _sweep(model, target, along, chunk_size, params, inputs, clean, at_P2):
    """Runs the corrupted text once for each (layer, index along a dimension), patched there."""
    name, swept = along
    lead = lambda size, at, dim: (jnp.arange(size) == at).reshape(
        tuple(size if i == dim else 1 for i in range(clean.ndim))
    )

    def run(at_2):
        mask = lead(clean.shape[0], at_2[0], 0) & lead(clean.shape[swept], at_2[1], swept)
        patches = {name: Patch(mask=mask, value=clean)}
        return target.value(run_model(model, params, inputs, patches=patches)[0])

    num = at_P2.shape[0]
    num_chunks = math.ceil(num / chunk_size)
    # Runs that fill up the last chunk are those of its last place.
    filled_P2 = jnp.pad(at_P2, ((0, num_chunks * chunk_size - num), (0, 0)), mode="edge")
    chunks = filled_P2.reshape(num_chunks, chunk_size, 2)
    return jax.lax.map(jax.vmap(run), chunks).reshape(-1)[:num]
