"""The JSON files of a tokenizer."""

import json
import pathlib
from typing import Any

from lm.errors import UserError


def json_object(name: str | pathlib.Path, contents: bytes) -> dict[str, Any]:
    """The object that a file holds.

    Args:
      name: of the file, for errors.
      contents: its bytes.

    Raises:
      UserError: it holds none.
    """
    try:
        found = json.loads(contents)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name} is no JSON ({error}); restore it") from None
    if not isinstance(found, dict):
        raise UserError(f"{name} holds no object of JSON; restore it")
    return found
