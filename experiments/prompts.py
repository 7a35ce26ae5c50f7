"""What `generate` is asked for: texts and conversations, from its config or a file."""

import pathlib
import sys
from collections.abc import Iterator
from typing import Any

import ml_collections

from lm.data import unlabelled
from lm.errors import UserError
from lm.formats import files
from lm.formats.fields import Record
from lm.inference.writing import Prompt


def read(prompt: str, prompts_file: str, data: ml_collections.ConfigDict) -> list[Prompt]:
    """The prompts of `prompts_file`, in their order, or `prompt` alone.

    What `on_error` of the `data` block leaves out is counted on standard error.

    Raises:
      UserError: the file cannot be read, is empty, or holds something else.
    """
    if not prompts_file:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise UserError(f"prompt holds half a character ({error.reason})") from None
        return [Prompt("prompt", prompt, {})]
    name = f"prompts_file={prompts_file}"
    if prompt:
        raise UserError(f"prompt={prompt!r} and {name} are both set; leave one out")
    path = pathlib.Path(prompts_file)
    skipped: list[UserError] = []
    prompts = list(
        files.without_errors(_read(path, data.max_document_bytes), data.on_error, skipped)
    )
    if skipped:
        print(f"{len(skipped):,} prompts left out, first: {skipped[0]}", file=sys.stderr)
    if not prompts:
        raise UserError(f"{name} is empty; write one prompt a line")
    return prompts


def _read(path: pathlib.Path, max_bytes: int) -> Iterator[Prompt | UserError]:
    *_, suffix = [s.lower() for s in ("", *path.suffixes) if s.lower() not in files.PACKED]
    if suffix == ".json":
        yield UserError(f"prompts_file={path}: write one object a line, and call the file .jsonl")
        return
    text_format = "jsonl" if suffix in (".jsonl", ".ndjson") else "text"
    from_text = lambda name, line: Record(name, {"prompt": line})
    for item in unlabelled.read(path, text_format, max_bytes, from_text, _say):
        yield item if isinstance(item, UserError) else _prompt(*item)


def _prompt(name: str, fields: dict[str, Any]) -> Prompt | UserError:
    """{"prompt": ...}, or {"messages": [...]} with what else belongs to a conversation."""
    given = fields.keys() & {"prompt", "messages"}
    if len(given) != 1:
        return UserError(f'{name}: write either {{"prompt": text}} or {{"messages": [...]}}')
    if "messages" in given:
        return Prompt(name, None, fields)
    if not isinstance(fields["prompt"], str):
        return UserError(f"{name}: prompt is a {type(fields['prompt']).__name__}, and no text")
    return Prompt(name, fields["prompt"], {})


def _say(line: str) -> None:
    print(line, file=sys.stderr)
