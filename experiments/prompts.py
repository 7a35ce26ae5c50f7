"""What `generate` is asked for: texts and conversations, from its config or a file."""

import json
import pathlib
from typing import Any, NamedTuple

import ml_collections

from lm.errors import UserError


class Prompt(NamedTuple):
    """A text, or a conversation.

    name: what errors call it.
    text: None for a conversation.
    fields: of a conversation: "messages" and what else a chat template reads.
    """

    name: str
    text: str | None
    fields: dict[str, Any]


def read(config: ml_collections.ConfigDict) -> list[Prompt]:
    """The prompts of `prompts_file`, in their order, or `prompt` alone.

    Raises:
      UserError: the file cannot be read, is empty, or holds something else.
    """
    if not config.prompts_file:
        return [_checked(Prompt("prompt", config.prompt, {}))]
    name = f"prompts_file={config.prompts_file}"
    if config.prompt:
        raise UserError(f"prompt={config.prompt!r} and {name} are both set; leave one out")
    path = pathlib.Path(config.prompts_file)
    if path.suffix == ".json":
        raise UserError(f"{name}: write one object a line, and call the file .jsonl")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: {error}") from None
    # Other line breaks of Unicode are text.
    lines = [(f"{name}:{i}", x) for i, x in enumerate(text.removesuffix("\n").split("\n"), 1)]
    if path.suffix == ".jsonl":
        prompts = [_parse(where, line) for where, line in lines if line.strip()]
    else:
        prompts = [Prompt(where, line, {}) for where, line in lines]
    if not text or not prompts:
        raise UserError(f"{name} is empty; write one prompt a line")
    return list(map(_checked, prompts))


def _parse(name: str, line: str) -> Prompt:
    """{"prompt": ...}, or {"messages": [...]} with what else belongs to a conversation."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{name}: not JSON ({error}); mend the line") from None
    given = fields.keys() & {"prompt", "messages"} if isinstance(fields, dict) else ()
    if len(given) != 1:
        raise UserError(f'{name}: write either {{"prompt": text}} or {{"messages": [...]}}')
    if "messages" in given:
        return Prompt(name, None, fields)
    if not isinstance(fields["prompt"], str):
        raise UserError(f"{name}: prompt is a {type(fields['prompt']).__name__}, and no text")
    return Prompt(name, fields["prompt"], {})


def _checked(prompt: Prompt) -> Prompt:
    try:
        json.dumps([prompt.text, prompt.fields], ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{prompt.name} holds half a character ({error.reason})") from None
    return prompt
