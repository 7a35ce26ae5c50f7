"""Makes optimisers from settings: clipping, rule, decay, schedule, averaged weights."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optax import contrib

from lm.errors import UserError
from lm.models import mup
from lm.models.parameters import Params, kernel_dims
from lm.settings import keywords, lookup
from lm.train import schedules
from lm.train.muon import scale_by_muon

Mask = Callable[[Params], Params]


def decays(path: tuple) -> bool:
    """Whether weight decay acts on a parameter: matrices and embeddings, not biases and gains."""
    return not path[-1].key.endswith(("bias", "scale"))


def _decay_mask(params: Params) -> Params:
    return jax.tree_util.tree_map_with_path(lambda path, _: decays(path), params)


# Rules. Each takes the rate, what decays, and what stands between its updates and the decay.


def adamw(lr, mask: Mask, *between, b1: float, b2: float, eps: float, weight_decay: float):
    """Loshchilov & Hutter 2019, algorithm 2, with the rate times the decay as in PyTorch."""
    return _decayed(lr, mask, optax.scale_by_adam(b1, b2, eps), *between, decay=weight_decay)


def lion(lr, mask: Mask, *between, b1: float, b2: float, weight_decay: float):
    """Chen et al. 2023, algorithm 2."""
    return _decayed(lr, mask, optax.scale_by_lion(b1, b2), *between, decay=weight_decay)


def sgd(lr, mask: Mask, *between, momentum: float, weight_decay: float):
    """Gradients that momentum adds up, as in PyTorch, with AdamW's decay."""
    return _decayed(lr, mask, optax.trace(momentum), *between, decay=weight_decay)


def _decayed(lr, mask: Mask, *directions, decay: float):
    # Decay comes behind the moments, which do not see it, and before the rate, which scales it.
    return optax.chain(
        *directions, optax.add_decayed_weights(decay, mask), optax.scale_by_learning_rate(lr)
    )


def adafactor(lr, mask: Mask, *, weight_decay: float):
    """Shazeer & Stern 2018, algorithm 4, at a given rate, which a parameter's size scales."""
    return optax.adafactor(
        lr,
        min_dim_size_to_factor=128,
        multiply_by_parameter_scale=True,
        weight_decay_rate=weight_decay,
        weight_decay_mask=mask,
    )


def muon(
    lr, mask: Mask, *between, beta: float, b1: float, b2: float, eps: float, weight_decay: float
):
    """Jordan et al. 2024 on the layers' matrices, AdamW on all else.

    Updates are scaled to AdamW's size (Liu et al. 2025, eq. 4), so one rate serves both.
    """
    # As `contrib.muon` has it, whose states are in old checkpoints, without its rate and decay.
    nothing = [optax.add_decayed_weights(0.0), optax.scale_by_learning_rate(1.0)]
    matrices = optax.chain(
        scale_by_muon(_muon_matrices, beta=beta, eps=eps),
        optax.stateless(lambda updates, _: _of_adamws_size(updates)),
        *nothing,
    )
    rest = optax.adamw(1.0, b1=b1, b2=b2, eps=eps, weight_decay=0.0, nesterov=True)
    labels = lambda params: jax.tree_util.tree_map_with_path(_muon_label, params)
    directions = optax.partition({"muon": matrices, "adam": rest}, labels)
    # Decay and rate come behind it, because its AdamW takes no mask: biases would decay.
    return _decayed(lr, mask, directions, optax.scale(-1.0), *between, decay=weight_decay)


def _of_adamws_size(updates: Params) -> Params:
    """Scales matrices, whose singular values are 1, to entries of 0.2 in the root mean square."""

    def scale(x, dims):
        sides = [math.prod(x.shape[dim] for dim in some) for some in dims]
        return jnp.sqrt(jnp.float32(max(sides))) * 0.2 * x

    return jax.tree.map(scale, updates, _muon_matrices(updates))


def _muon_label(path: tuple, x: jax.Array) -> str:
    """Says which of the two a parameter is for: Muon takes matrices between hidden layers."""
    names = tuple(part.key for part in path)
    return "muon" if names[-1] == "kernel" and "layers" in names else "adam"


def _muon_matrices(kernels: Params) -> Params:
    """Says which dimensions of each kernel are a matrix's rows, and which its columns."""

    def numbers(path, x):
        num_in = kernel_dims(tuple(part.key for part in path), x.ndim).inputs
        dims = tuple(range(1, x.ndim))  # Dimension 0 counts the layers: a batch of matrices.
        return contrib.MuonDimensionNumbers(dims[:num_in], dims[num_in:])

    return jax.tree_util.tree_map_with_path(numbers, kernels)


OPTIMIZERS = {"adamw": adamw, "lion": lion, "adafactor": adafactor, "muon": muon, "sgd": sgd}

# The settings that may be arrays: they change what an optimiser does, and never its program.
SCALARS = ("peak_lr", "weight_decay", "beta", "momentum", "b1", "b2", "eps")


def make_optimizer(
    *,
    name: str,
    peak_lr: float,
    schedule: str,
    warmup_steps: int,
    warmup_share: float,
    layer_decay: float,
    clip_norm: float,
    ema_decay: float,
    num_steps: int,
    growth: mup.Growth | None = None,
    trained: Callable[[Params], Params] | None = None,
    **settings,
) -> tuple[optax.GradientTransformation, schedules.Schedule]:
    """Builds the optimiser and returns its schedule beside it, for the log.

    What `SCALARS` names may be numbers or scalar arrays, traced ones too.

    Args:
      name: adamw, lion, adafactor, muon or sgd.
      peak_lr: the rate after the warmup.
      schedule: constant, linear, cosine, rsqrt or wsd.
      warmup_steps, warmup_share: of the linear warmup; see `schedules.warmup_of`.
      layer_decay: the rate of each layer is that of the one above it times this; see
        `scale_by_depth`. 1 leaves them all alike.
      clip_norm: gradients longer than this are scaled back to it; 0 does not clip.
      ema_decay: keeps an exponential average of the weights for evaluation; 0 keeps none.
      num_steps: of the whole run.
      growth: of a model with a base shape, see `mup.growth`: each parameter has its own rate. The
        decay of a step is the schedule's rate times `weight_decay` for all of them.
      trained: says what of each parameter changes, see `new_rows.trained_rows`; None: all.
      **settings: what the rule and the schedule take besides, and nothing that neither takes.

    Raises:
      UserError: unknown names, a setting that nothing would read, one that is missing.
    """
    rule = lookup("optimizer.name", name, OPTIMIZERS)
    make_schedule = lookup("optimizer.schedule", schedule, schedules.SCHEDULES)
    if num_steps < 1:
        raise UserError(f"train.num_steps={num_steps} must be at least 1")
    if not 0 < layer_decay <= 1:
        raise UserError(f"optimizer.layer_decay={layer_decay} must lie in (0, 1]")
    warmup_steps = schedules.warmup_of(
        num_steps, warmup_steps=warmup_steps, warmup_share=warmup_share
    )
    peak_lr = _float32(peak_lr)
    num_left = num_steps - warmup_steps  # A schedule starts where the warmup ends.
    known = {"peak_lr": peak_lr, "warmup_steps": warmup_steps, "num_steps": num_left}
    of_rule, of_schedule = keywords(rule).keys(), keywords(make_schedule).keys()
    wanted = (of_rule | of_schedule) - known.keys()
    for key in settings.keys() - wanted:
        raise UserError(
            f"optimizer.{key}={settings[key]} is read neither by name={name} nor by "
            f"schedule={schedule}; remove it from the config file, or let that take an argument "
            "optimizer or schedule, as those in configs/ do"
        )
    for key in wanted - settings.keys():
        raise UserError(f"optimizer.{key} is missing, and name={name}, schedule={schedule} need it")
    settings = {k: _float32(v) if k in SCALARS else v for k, v in settings.items()}
    rate = schedules.with_warmup(
        make_schedule(**{k: v for k, v in (known | settings).items() if k in of_schedule}),
        peak_lr=peak_lr,
        warmup_steps=warmup_steps,
    )
    between = []
    if growth is not None:  # Before the decay, which muP leaves independent of the width.
        mup.check_optimizer(name)
        between = [optax.stateless(lambda updates, _: mup.scaled_updates(updates, name, growth))]
    settings = {k: v for k, v in settings.items() if k in of_rule}
    # This order is that of the states in a checkpoint: another one would not restore old runs.
    chain = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []  # The raw gradient's norm.
    chain += [rule(rate, _decay_mask, *between, **settings)]
    chain += [scale_by_depth(layer_decay)] if layer_decay < 1 else []
    if trained is not None:  # Decay would change what has no gradient.
        keep = lambda u, is_trained: jnp.where(is_trained, u, 0)
        chain += [optax.stateless(lambda u, _: jax.tree.map(keep, u, trained(u)))]
    chain += [average_weights(ema_decay)] if ema_decay else []  # Last: it needs the final update.
    return optax.chain(*chain), rate


def _float32(x: float | jax.Array) -> np.float32 | jax.Array:
    # For numbers and arrays alike, so that 1 - b2 is the same to the bit under vmap.
    return x.astype(jnp.float32) if isinstance(x, jax.Array) else np.float32(x)


def scale_by_depth(decay: float) -> optax.GradientTransformation:
    """Decays the learning rate by layer (Howard & Ruder 2018, section 3.1; Clark et al. 2020).

    Behind a rule, it scales the updates: those of what stands above the layers by 1, of the last of
    N layers by `decay`, of the first by decay^N, and of embeddings by decay^(N + 1).
    """

    def update(updates, state, params=None):
        leaves = jax.tree_util.tree_flatten_with_path(updates)[0]
        num_layers = max((x.shape[0] for path, x in leaves if _in_layers(path)), default=0)

        def scale(path, x):
            if _in_layers(path):
                factors_N = decay ** jnp.arange(x.shape[0], 0, -1, dtype=x.dtype)
                return x * factors_N.reshape(-1, *[1] * (x.ndim - 1))
            return x * decay ** (num_layers + 1) if _is_below_layers(path) else x

        return jax.tree_util.tree_map_with_path(scale, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _in_layers(path: tuple) -> bool:
    return any(key.key == "layers" for key in path)


def _is_below_layers(path: tuple) -> bool:
    # Embeddings that are read, their norm, and what relative positions add in every layer.
    names = [key.key for key in path]
    return any(
        name in ("embedding_norm", "relative_bias")
        or (name.endswith("_embedding") and name != "output_embedding")
        for name in names
    )


class AverageState(NamedTuple):
    """Averaged weights, which travel in the optimiser's state, and so in every checkpoint."""

    average: Params


def average_weights(decay: float) -> optax.GradientTransformation:
    """Keeps an exponential moving average of the weights; leaves the update as it is."""

    def update(updates, state, params):
        step = lambda a, p, u: decay * a + (1 - decay) * (p + u)  # Of the weights after the update.
        return updates, AverageState(jax.tree.map(step, state.average, params, updates))

    # A copy: the state is donated, and one buffer cannot be given away twice.
    return optax.GradientTransformation(
        lambda params: AverageState(jax.tree.map(jnp.copy, params)), update
    )


def evaluation_params(params: Params, opt_state: optax.OptState) -> Params:
    """Returns the averaged weights where the optimiser keeps them, else the weights."""
    states = jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, AverageState))
    averages = [s.average for s in states if isinstance(s, AverageState)]
    return averages[0] if averages else params
