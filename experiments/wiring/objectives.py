"""From the `objective` block of a config to a function of (rows, key)."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from lm.corpus.rows import abstract_rows
from lm.errors import UserError
from lm.models.families import family_of
from lm.objectives import causal, masked, spans
from lm.objectives.batch import Objective
from lm.objectives.mixture import mixture
from lm.settings import check_keys
from lm.tokenizers.vocabulary import Vocabulary

# By the architecture of the models that an objective can train.
OBJECTIVES = {
    "decoder": {"causal": causal.causal, "prefix": causal.prefix},
    "encoder": {"masked": masked.masked},
    "encoder_decoder": {"span_corruption": spans.span_corruption, "prefix": spans.prefix},
}
_SPOKEN = {
    "decoder": "a decoder",
    "encoder": "an encoder",
    "encoder_decoder": "an encoder with a decoder",
}
_SHARES = ("rate", "noise_density", "suffix_share")


def check(block: dict[str, Any], architecture: str, key: str = "objective") -> None:
    """Checks that an objective of these settings can train models of this architecture.

    Raises:
      UserError: it cannot, or settings are unknown, missing or mean nothing.
    """
    settings = dict(block)
    kind = settings.pop("kind", None)
    known = OBJECTIVES[architecture]
    if kind == "mixture" and key == "objective" and len(known) > 1:  # No mixture in a mixture.
        _check_mixture(settings, architecture)
        return
    if kind not in known:
        more = ", mixture" if len(known) > 1 and key == "objective" else ""
        raise UserError(
            f"{key}.kind={kind!r} is nothing that trains {_SPOKEN[architecture]}; choose "
            f"{', '.join(known)}{more}"
        )
    given = ("vocabulary", "lengths")  # Arguments that are no settings: `make_objective` has them.
    check_keys(known[kind], key, settings, of=f"kind={kind}", given=given)
    for name in _SHARES:
        if name in settings and not 0 < settings[name] < 1:
            raise UserError(f"{key}.{name}={settings[name]} must lie between 0 and 1")
    if not settings.get("mean_span_length", 1) >= 1:
        raise UserError(f"{key}.mean_span_length={settings['mean_span_length']} must be 1 or more")
    shares = [settings.get(name, 0) for name in ("mask_share", "random_share")]
    if not (min(shares) >= 0 and sum(shares) <= 1):
        raise UserError(f"{key}.mask_share={shares[0]} and random_share={shares[1]} exceed 1")


def _check_mixture(settings: dict[str, Any], architecture: str) -> None:
    if settings.keys() != {"parts"} or not settings["parts"]:
        raise UserError("objective.kind='mixture' needs objective.parts, and nothing else")
    for name, part in settings["parts"].items():
        weight = part.get("weight", 0)
        if not 0 < weight < float("inf"):
            raise UserError(f"objective.parts.{name}.weight={weight} must be positive")
        without = {k: v for k, v in part.items() if k != "weight"}
        check(without, architecture, f"objective.parts.{name}")


def make_objective(
    block: Mapping[str, Any], *, architecture: str, vocabulary: Vocabulary, seq_len: int
) -> Objective:
    """The objective of a block that `check` has let pass.

    Raises:
      UserError: the tokenizer lacks a special token that it needs.
    """
    settings = dict(block)
    kind = settings.pop("kind")
    rows, key = abstract_rows(1, seq_len), jax.random.key(0)
    traced = lambda objective: jax.eval_shape(objective, rows, key)
    if kind != "mixture":
        objective = _with_tokens(OBJECTIVES[architecture][kind], kind, architecture, vocabulary)
        objective = functools.partial(objective, **settings)
        traced(objective)  # It raises what it has to say about the tokenizer now.
        return objective
    parts = [dict(part) for part in settings["parts"].values()]
    weights = [part.pop("weight") for part in parts]
    make = functools.partial(
        make_objective, architecture=architecture, vocabulary=vocabulary, seq_len=seq_len
    )
    objectives = [make(part) for part in parts]
    if architecture == "encoder_decoder":
        # All parts are padded to the longest, so that any may be drawn in one compiled step.
        batches = [traced(objective) for objective in objectives]
        lengths = (
            max(batch.inputs["encoder_tokens_BM"].shape[1] for batch in batches),
            max(batch.targets_BL.shape[1] for batch in batches),
        )
        objectives = [functools.partial(objective, lengths=lengths) for objective in objectives]
    else:
        objectives = [_with_prefix(objective) for objective in objectives]
    return functools.partial(mixture, objectives=objectives, weights=weights)


def abstract_objective(objective: Mapping[str, Any], model: nn.Module, seq_len: int) -> Objective:
    """The objective of a block, for shapes alone: no tokenizer is read, and none lacks a token."""
    size = model.config.vocab_size
    none_V = np.zeros(size, bool)
    vocabulary = Vocabulary(
        pad_id=0,
        eos_id=1,
        mask_id=2,
        sentinel_ids=np.arange(size, dtype=np.int32),
        special_V=none_V,
        joins_left_V=none_V,
        joins_right_V=none_V,
    )
    return make_objective(
        objective,
        architecture=family_of(model).architecture,
        vocabulary=vocabulary,
        seq_len=seq_len,
    )


def _with_tokens(function, kind: str, architecture: str, vocabulary: Vocabulary):
    """Gives an objective its special tokens, if it needs any."""
    if architecture == "decoder":
        return function
    if kind == "masked" and vocabulary.mask_id is None:
        raise UserError(
            "objective.kind='masked' needs a mask token, and the tokenizer has none; set "
            "tokenizer.mask=True, or take one that has <mask> or [MASK]"
        )
    if architecture == "encoder_decoder" and vocabulary.eos_id is None:
        raise UserError(f"objective.kind={kind!r} needs a tokenizer with an end-of-text token")
    return functools.partial(function, vocabulary=vocabulary)


def _with_prefix(objective: Objective) -> Objective:
    """Adds an empty prefix to batches that have none: the parts of a mixture need equal trees."""

    def with_prefix(rows, key):
        batch = objective(rows, key)
        none_BL = jnp.zeros(batch.targets_BL.shape, bool)
        return batch.replace(inputs={"prefix_BL": none_BL} | batch.inputs)

    return with_prefix
