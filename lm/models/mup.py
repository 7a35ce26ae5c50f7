"""muP keeps learning rates and initial weights right when a model gets wider.

Yang et al. 2022 ("Tensor Programs V", arXiv 2203.03466), in the form of table 8, where an input and
an output may share their weights. A config names a base shape, at which nothing changes; every
factor here is a power of how much wider the model is than that. docs/mup.md tells it at length.

Dimension key:
  B batch    L length    D model width    H heads    K head width    F MLP width    HK is H x K
"""

import enum
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import path_aware_map

from lm.errors import UserError
from lm.models.parameters import Params

# How many times as wide as the base shape each of D, HK, F and K is.
Growth = Mapping[str, float]
Path = tuple[str, ...]

FIELDS = ("mup_model_dim", "mup_num_heads", "mup_head_dim", "mup_mlp_dim")


class Kind(enum.Enum):
    """What a parameter maps: a fixed number of things to a width, a width to a width, a width to a
    fixed number of things; or it is a bias or a gain, an input weight that reads a 1."""

    INPUT = enum.auto()
    HIDDEN = enum.auto()
    OUTPUT = enum.auto()
    VECTOR = enum.auto()


# The end of a parameter's path, its kind, and the width that its factors are powers of: what it
# reads if it reads one, else what it writes. Key/value heads are to grow as heads do. A table that
# is tied is an input; what table 8 says of an output besides its multiplier is the same.
_RULES = {
    "(token|position)_embedding": (Kind.INPUT, "D"),
    "output_embedding": (Kind.OUTPUT, "D"),
    "attention/(query|key|value)/kernel": (Kind.HIDDEN, "D"),
    "attention/out/kernel": (Kind.HIDDEN, "HK"),
    "mlp/(in|gate)/kernel": (Kind.HIDDEN, "D"),
    "mlp/out/kernel": (Kind.HIDDEN, "F"),
    "attention/(query|key|value)/bias": (Kind.VECTOR, "HK"),
    "mlp/in/bias": (Kind.VECTOR, "F"),
    "(attention|mlp)/out/bias": (Kind.VECTOR, "D"),
    "norm/(scale|bias)": (Kind.VECTOR, "D"),
}

# The power of its width that a kind's standard deviation has (table 8, "Init. Var."), and its rate
# ("Adam LR", "SGD LR"). What is not there stays as it is.
_INIT = {Kind.HIDDEN: -0.5}
_ADAM = {Kind.HIDDEN: -1.0}
_SGD = {Kind.INPUT: 1.0, Kind.OUTPUT: 1.0, Kind.VECTOR: 1.0}
# An update whose singular values are all alike, and its entries of Adam's size, has a spectral norm
# that grows as the root of the width, and has to keep it (Yang et al. 2023, arXiv 2310.17813,
# condition 1). All but the layers' matrices is Adam's.
_MUON = {Kind.HIDDEN: -0.5}
# Lion's updates have entries of one size, as Adam's nearly do (Yang et al. 2022, appendix B).
_RATES = {"adamw": _ADAM, "lion": _ADAM, "muon": _MUON, "sgd": _SGD}


def check(c: Any) -> None:
    """Raises UserError if a family's config has a part of a base shape, or sizes that are none."""
    values = {name: getattr(c, name) for name in FIELDS}
    if any(values.values()) and min(values.values()) < 1:
        sizes = ", ".join(f"model.{name}={value}" for name, value in values.items())
        raise UserError(f"{sizes}: make all of a base shape 1 at least, or all 0 for none")


def growth(c: Any) -> Growth | None:
    """Divides a model's widths by those of its base shape; None where it has none."""
    if not getattr(c, "mup_model_dim", 0):  # Families without rules have no such field.
        return None
    return {
        "D": c.model_dim / c.mup_model_dim,
        "HK": c.num_heads * c.head_dim / (c.mup_num_heads * c.mup_head_dim),
        "F": c.mlp_dim / c.mup_mlp_dim,
        "K": c.head_dim / c.mup_head_dim,
    }


def output_multiplier(c: Any) -> float:
    """Returns the factor of hidden states for logits: table 8's 1/fan_in, 1 at the base shape."""
    grown = growth(c)
    return 1 / grown["D"] if grown else 1.0


def for_output(c: Any, x_BLD: jax.Array) -> jax.Array:
    """Multiplies hidden states, B x L x D, by `output_multiplier`; in their own dtype."""
    multiplier = output_multiplier(c)
    return x_BLD if multiplier == 1 else x_BLD * multiplier


def attention_scale(c: Any) -> float | None:
    """Returns what attention multiplies scores by; None where that is 1/sqrt(K)."""
    grown = growth(c)
    # 1/K and no longer 1/sqrt(K) (definition 4.1), but alike at the base shape:
    # 1/sqrt(K) x sqrt(base K / K) = sqrt(base K) / K.
    return (c.head_dim * grown["K"]) ** -0.5 if grown and grown["K"] != 1 else None


def scaled_init(c: Any, params: Params) -> Params:
    """Scales random parameters of the standard parametrisation as muP draws them.

    Raises:
      UserError: no rule covers a parameter.
    """
    grown = growth(c)
    return params if grown is None else _scaled(params, _INIT, grown)


def scaled_updates(updates: Params, optimizer: str, grown: Growth) -> Params:
    """Scales an optimizer's updates, before decay and rate, by each parameter's own rate.

    Args:
      updates: a tree like the parameters'.
      optimizer: one that `check_optimizer` knows.
      grown: see `growth`.

    Raises:
      UserError: no rule covers a parameter.
    """
    return _scaled(updates, _RATES[optimizer], grown)


def check_optimizer(name: str) -> None:
    """Raises UserError for an optimizer whose rates have no rule."""
    if name not in _RATES:
        raise UserError(
            f"optimizer.name={name} has no rule for the rates of wider models, and the model's "
            f"base shape, model.mup_*, asks for one; choose {', '.join(_RATES)}, or leave that 0"
        )


def _scaled(params: Params, exponents: Mapping[Kind, float], grown: Growth) -> Params:
    def scale(path, x):
        kind, width = rule(path)
        factor = grown[width] ** exponents.get(kind, 0.0)
        return x if factor == 1 else x * factor  # At the base shape the program is the same too.

    return path_aware_map(scale, params)


def rule(path: Path) -> tuple[Kind, str]:
    """Finds a parameter's kind by its path, and the width that its factors are powers of.

    Raises:
      UserError: there is none.
    """
    name = "/".join(path)
    for ending, found in _RULES.items():
        if re.search(f"(^|/|_){ending}$", name):
            return found
    raise UserError(f"the parameter {name} has no rule that says how it is scaled; see {__file__}")


def folded(
    model: dict[str, Any], params: Params, c: Any, *, has_output: bool
) -> tuple[dict[str, Any], Params]:
    """Turns a `model` block and parameters into standard ones that give the same numbers.

    The scale of attention goes into the queries, the multiplier of the output into the last norm.
    A model without a base shape is given back as it is.

    Args:
      model: the block of the config.
      params: as arrays of NumPy, by the paths of the family's own module, or below "body".
      c: the family's config.
      has_output: the hidden states go to the output of a language model and nowhere else; a task's
        head has no multiplier.
    """
    if growth(c) is None:
        return model, params
    scale = attention_scale(c)
    query = 1.0 if scale is None else scale * c.head_dim**0.5  # Readers divide by sqrt(K) again.
    output = output_multiplier(c) if has_output else 1.0

    def fold(path: Path, x: Any) -> Any:
        if path[-3:-1] == ("attention", "query"):
            return x * np.float32(query)
        return x * np.float32(output) if path[-2:-1] == ("final_norm",) else x

    return {**model, **dict.fromkeys(FIELDS, 0)}, path_aware_map(fold, params)
