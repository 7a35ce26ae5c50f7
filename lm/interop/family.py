"""What a family of `transformers` must say of itself, and what all of them check alike."""

from collections.abc import Callable
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.interop.weights import Entry, Path
from lm.models import mup


class HuggingFaceFamily(NamedTuple):
    """The link between a family of ours and the models of `transformers` that it covers.

    model_types: as config.json names them.
    prefix: of the names of a model with its head, which files of the bare model lack.
    model_block: config.json -> the `model` block of ours; raises UserError for what ours lacks.
    hf_config: the other way.
    table: the `model` block -> every tensor, by the name that the model with its head gives it.
    tied: names of an output and the embedding that it repeats; files may hold either.
    ignored: ends of names that hold nothing learned.
    spare: ends of names of what files often hold and the model with its head does not use.
    zeros: parameters of ours that theirs lacks, which are then 0.
    """

    model_types: tuple[str, ...]
    prefix: str
    model_block: Callable[[dict[str, Any]], dict[str, Any]]
    hf_config: Callable[[dict[str, Any]], dict[str, Any]]
    table: Callable[[dict[str, Any]], list[Entry]]
    tied: Callable[[dict[str, Any]], dict[str, str]]
    ignored: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    zeros: tuple[Path, ...] = ()


# Of every model block, what a folder of transformers says nothing about.
HOW_TO_RUN = dict(dtype="auto", attention="auto", matmul="plain", remat="none", scan_layers=False)

# Of decoders: it knows nothing of muP, which `mup.folded` turns into what it knows.
NO_MUP = dict.fromkeys(mup.FIELDS, 0)


def require(config: dict[str, Any], **wanted: tuple[Any, Any]) -> None:
    """Checks settings that change the arithmetic and of which ours has one value only.

    Args:
      config: config.json.
      **wanted: for each key, the default of transformers and the only value that is supported.

    Raises:
      UserError: another value.
    """
    for key, (default, only) in wanted.items():
        value = config.get(key, default)
        if value != only:
            raise UserError(f"config.json: {key}={value!r} is not supported; only {only!r} is")


def one_dropout(config: dict[str, Any], **defaults: float) -> float:
    """The rate that all of these keys must agree on."""
    rates = {key: config.get(key, default) for key, default in defaults.items()}
    if len(set(rates.values())) > 1:
        raise UserError(f"config.json: dropout rates differ, {rates}; only one is supported")
    return next(iter(rates.values()))


def check_head_dim(model: dict[str, Any]) -> None:
    """Raises UserError where heads do not add up to the width: transformers cannot say so."""
    if model["num_heads"] * model["head_dim"] != model["model_dim"]:
        raise UserError(
            f"model.num_heads={model['num_heads']} x model.head_dim={model['head_dim']} is not "
            f"model.model_dim={model['model_dim']}, and transformers' {model['name']} has no other "
            "shape"
        )
