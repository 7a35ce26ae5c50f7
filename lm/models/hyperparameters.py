"""Checks of hyperparameters that all families share."""

import dataclasses
from typing import Any

from lm.errors import UserError
from lm.models.stack import REMAT_POLICIES
from lm.settings import choose


def check_hyperparameters(config: Any, may_be_zero: tuple[str, ...] = ()) -> None:
    """Checks a family's dataclass: counts are positive, dropout is a share, names are known.

    Raises:
      UserError: the field and its value.
    """
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        # A whole number will do for a float: configs may say 10000 for 10000.0.
        if not isinstance(value, (int, float) if field.type is float else field.type):
            raise UserError(f"model.{field.name}={value!r} must be of type {field.type.__name__}")
        is_count = field.type in (int, float) and field.name not in (*may_be_zero, "dropout")
        if is_count and not value > 0:
            raise UserError(f"model.{field.name}={value} must be positive")
    if not 0 <= config.dropout < 1:
        raise UserError(f"model.dropout={config.dropout} must lie in [0, 1)")
    if config.dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"model.dtype={config.dtype!r} is unknown; choose float32 or bfloat16")
    choose("model.remat", config.remat, REMAT_POLICIES)
