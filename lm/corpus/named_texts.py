"""Texts that a config names by one key, for commands that train nothing."""

from collections.abc import Iterator

from lm.corpus import sources
from lm.errors import UserError
from lm.formats import files


def training_texts(spec: str, key: str) -> sources.Source:
    """Opens what the config key `key` names: files by glob, a document a file, or curated:WORKDIR.

    Raises:
      UserError: nothing is there.
    """
    if spec.startswith("curated:"):
        place = dict(source=spec, spec="")
    else:
        place = dict(source="text", spec=spec)
    try:
        return sources.make_source(**place, split="train", field="")
    except UserError as error:  # It knows keys by the names that they have in training.
        said = str(error).replace("data.train", key).replace("data.source", key)
        raise UserError(said) from None


def all_texts(source: sources.Source) -> Iterator[str]:
    """Yields the texts of what `training_texts` opened.

    Raises:
      UserError: one cannot be read.
    """
    try:
        yield from (document.text for document in sources.readable(source, "raise", []))
    except UserError as error:
        raise files.without_skip(error) from None
