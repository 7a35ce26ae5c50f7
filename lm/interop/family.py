"""Names what a family of `transformers` must say of itself."""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.interop.settings import Table
from lm.interop.weights import Entry, Path
from lm.models import mup


class HuggingFaceFamily(NamedTuple):
    """Links a family of ours with the models of `transformers` that it covers."""

    model_types: tuple[str, ...]  # As config.json names them.
    prefix: str  # Of the names of a model with its head, which files of the bare model lack.
    settings: Callable[[str], Table]  # model_type -> what its config.json may say.
    # What `settings.read` gave of config.json, its model_type, and the names of the folder's
    # tensors -> the `model` block of ours. Raises UserError for what ours lacks.
    model_block: Callable[[dict[str, Any], str, Collection[str]], dict[str, Any]]
    hf_config: Callable[[dict[str, Any]], dict[str, Any]]  # The other way.
    # The `model` block -> every tensor, by the name that the model with its head gives it.
    table: Callable[[dict[str, Any]], list[Entry]]
    # Names of an output and of the embedding that it repeats; files may hold either.
    tied: Callable[[dict[str, Any]], dict[str, str]]
    ignored: tuple[str, ...] = ()  # Ends of names that hold nothing learned.
    spare: tuple[str, ...] = ()  # Ends of what files often hold and the model does not use.
    zeros: tuple[Path, ...] = ()  # Parameters of ours that theirs lacks, which are then 0.
    aliases: dict[str, str] = {}  # noqa: RUF012  Other names of settings.
    # Tensors that may be absent, each with the one that takes its place.
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
