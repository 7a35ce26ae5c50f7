"""What a family of `transformers` must say of itself."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.interop.settings import Table
from lm.interop.weights import Entry, Path
from lm.models import mup


class HuggingFaceFamily(NamedTuple):
    """The link between a family of ours and the models of `transformers` that it covers.

    model_types: as config.json names them.
    prefix: of the names of a model with its head, which files of the bare model lack.
    settings: model_type -> what its config.json may say.
    aliases: other names of settings.
    model_block: what `settings.read` gave of config.json, its model_type, and the names of the
      folder's tensors -> the `model` block of ours; raises UserError for what ours lacks.
    hf_config: the other way.
    table: the `model` block -> every tensor, by the name that the model with its head gives it.
    tied: names of an output and the embedding that it repeats; files may hold either.
    ignored: ends of names that hold nothing learned.
    spare: ends of names of what files often hold and the model with its head does not use.
    zeros: parameters of ours that theirs lacks, which are then 0.
    fallbacks: tensors that may be absent, each with the one that takes its place.
    """

    model_types: tuple[str, ...]
    prefix: str
    settings: Callable[[str], Table]
    model_block: Callable[[dict[str, Any], str, Collection[str]], dict[str, Any]]
    hf_config: Callable[[dict[str, Any]], dict[str, Any]]
    table: Callable[[dict[str, Any]], list[Entry]]
    tied: Callable[[dict[str, Any]], dict[str, str]]
    ignored: tuple[str, ...] = ()
    spare: tuple[str, ...] = ()
    zeros: tuple[Path, ...] = ()
    aliases: dict[str, str] = {}  # noqa: RUF012
    fallbacks: Callable[[dict[str, Any]], dict[str, str]] = lambda model: {}


# Of every model block, what a folder of transformers says nothing about.
HOW_TO_RUN = dict(dtype="auto", attention="auto", matmul="plain", remat="none", scan_layers=False)

# Of decoders: it knows nothing of muP, which `mup.folded` turns into what it knows.
NO_MUP = dict.fromkeys(mup.FIELDS, 0)


def check_head_dim(model: dict[str, Any]) -> None:
    """Raises UserError where heads do not add up to the width: transformers cannot say so."""
    if model["num_heads"] * model["head_dim"] != model["model_dim"]:
        raise UserError(
            f"model.num_heads={model['num_heads']} x model.head_dim={model['head_dim']} is not "
            f"model.model_dim={model['model_dim']}, and transformers' {model['name']} has no other "
            "shape"
        )
