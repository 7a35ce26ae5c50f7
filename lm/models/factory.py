"""Makes models of dicts of settings, with "auto" resolved for this machine."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from lm.models import families
from lm.models.attention import (
    KernelChoice,
    KernelRequirements,
    choose_attention,
    compute_capability,
)
from lm.models.matmuls import check_matmul
from lm.settings import call, lookup


def family_named(name: str) -> families.Family:
    """Finds the family that `model.name` names; a UserError lists all if there is none."""
    return lookup("model.name", name, families.FAMILIES)


def make_model(
    block: Mapping[str, Any],
    *,
    causal: bool,
    packed: bool = True,
    sequence_parts: int = 1,
) -> nn.Module:
    """Makes the model of a config's `model` block, with "auto" resolved for this machine.

    Args:
      block: the family's name and hyperparameters.
      causal: no token of a decoder will see what follows it.
      packed: a row may hold several documents; otherwise it holds one, and padding after it.
      sequence_parts: devices that share a row; -1 for all that other axes leave.

    Raises:
      UserError: a value that cannot work, or a kernel that cannot run, here.
    """
    model_config, choice = resolved(block, causal, packed, sequence_parts)
    model_config = dataclasses.replace(model_config, attention=choice.kernel)
    return family_named(block["name"]).module(model_config)


def scans_layers(value: bool | str, platform: str) -> bool:
    """Resolves `model.scan_layers`; raises UserError for what it cannot be."""
    known = {"auto": platform == "cpu", "True": True, "False": False}
    return lookup("model.scan_layers", str(value), known)


def resolved(
    block: Mapping[str, Any], causal: bool, packed: bool, sequence_parts: int
) -> tuple[Any, KernelChoice]:
    """Gives the family's dataclass, whose `attention` is as it was, and the kernel for it.

    See `make_model` for the arguments and what is raised.
    """
    settings = dict(block)
    family = family_named(settings.pop("name"))
    platform, capability = jax.default_backend(), compute_capability()
    if settings["dtype"] == "auto":
        settings["dtype"] = "float32" if platform == "cpu" else "bfloat16"
    settings["scan_layers"] = scans_layers(settings["scan_layers"], platform)
    model_config = call(family.config, "model", settings)
    check_matmul(model_config.matmul, platform=platform, capability=capability)
    # Encoders see both sides whatever the objective; only decoders have prefixes inside a row.
    is_decoder = family.architecture == "decoder"
    needs = KernelRequirements(
        platform=platform,
        capability=capability,
        dtype=model_config.dtype,
        dropout=model_config.dropout,
        head_dim=model_config.head_dim,
        biased=family.biased,
        causal=causal and is_decoder,
        prefix=is_decoder and not causal,
        packed=packed,
        sequence_parts=sequence_parts,
    )
    return model_config, choose_attention(model_config.attention, needs)
