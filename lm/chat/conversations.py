"""Reads conversations: messages, and the tools and documents beside them.

What `transformers` does to them before a template sees them is done here, too.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.formats.fields import has, is_deep, lookup

# {"role": "user", "content": "..."}, with "tool_calls", "reasoning_content" and whatever else a
# template reads; the content may be a list of {"type": "text", "text": "..."}.
Message = dict[str, Any]

ROLES = ("system", "developer", "user", "assistant", "tool")
_REASONING = ("reasoning_content", "thinking", "reasoning")


class Conversation(NamedTuple):
    """What a template lays out.

    messages: from the first on.
    tools: that an assistant may call, as JSON schemas; documents: that it may read.
    variables: whatever else the template knows, such as {"enable_thinking": False}.
    """

    messages: Sequence[Message]
    tools: Sequence[dict[str, Any]] | None = None
    documents: Sequence[dict[str, Any]] | None = None
    variables: Mapping[str, Any] = {}

    def first(self, num: int) -> "Conversation":
        """Returns the conversation with so many of its messages."""
        return self._replace(messages=self.messages[:num])

    def with_contents(
        self, function: Callable[[Message], Any], of: Callable[[Message], bool]
    ) -> "Conversation":
        """Puts another content in each of these messages that has one."""
        change = lambda m: m | {"content": function(m)} if "content" in m and of(m) else m
        return self._replace(messages=list(map(change, self.messages)))


def read_conversation(
    name: str, fields: Mapping[str, Any], messages: str, takes_role: Callable[[Any], bool]
) -> Conversation:
    """Reads the conversation of a record, with an answer to learn.

    Beside its messages it may have "tools" and "documents", lists of objects (or JSON texts of
    such), and "chat_template_kwargs", an object of whatever else the template knows.

    Args:
      name: what errors call the record.
      fields: of the record.
      messages: the field that holds them; see `fields.lookup`.
      takes_role: see `ChatTemplate.takes_role`.

    Raises:
      UserError: no list of {"role", "content"}, an unknown role, tools or documents that are no
        such lists, or nothing that an assistant says.
    """
    conversation = _read(name, fields, messages, takes_role)
    if not any(message["role"] == "assistant" for message in conversation.messages):
        raise UserError(f"{name}: no message is an assistant's, so there is nothing to learn")
    return conversation


def asked(
    name: str, fields: Mapping[str, Any], messages: str, takes_role: Callable[[Any], bool]
) -> Conversation:
    """Reads a conversation as `read_conversation` does, but its last message is to be answered.

    Raises:
      UserError: as there, or the last message is an assistant's.
    """
    conversation = _read(name, fields, messages, takes_role)
    if conversation.messages[-1]["role"] == "assistant":
        raise UserError(
            f"{name}: the last message is an assistant's already; leave it out to have it written "
            "anew"
        )
    return conversation


def _read(
    name: str, fields: Mapping[str, Any], messages: str, takes_role: Callable[[Any], bool]
) -> Conversation:
    variables = _json(fields.get("chat_template_kwargs"))
    if not isinstance(variables, dict | None):
        raise UserError(f"{name}: chat_template_kwargs must be an object, such as {{}}")
    found = lookup(fields, messages) if has(fields, messages) else None
    return Conversation(
        _check_messages(name, found, takes_role),
        _objects(name, "tools", fields),
        _objects(name, "documents", fields),
        variables or {},
    )


def _check_messages(name: str, messages: Any, takes_role: Callable[[Any], bool]) -> list[Message]:
    """Returns messages as they are, if they are a list of {"role", "content"} of known roles."""
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{name}: messages must be a list of {{"role": ..., "content": ...}}')
    for i, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not _has_content(message):
            raise UserError(
                f'{name}: message {i} is no {{"role": ..., "content": text}}; a content may be a '
                'list of {"type": "text", "text": ...}, and be missing beside tool_calls'
            )
        if not takes_role(message.get("role")):
            raise UserError(
                f"{name}: message {i} has the role {message.get('role')!r}; roles are "
                f"{', '.join(ROLES)}, and those that the chat template names"
            )
    return messages


def text_of(message: Message) -> str:
    """Returns what a message says, without what else it holds."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content)
    return content or ""


def parts_of(message: Message) -> list[dict[str, str]]:
    """Returns what a message says, as parts."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _has_content(message: Message) -> bool:
    match message.get("content"):
        case str():
            return True
        case None:
            return bool(message.get("tool_calls"))
        case list(parts) if parts:
            is_text = lambda part: part.get("type") == "text" and isinstance(part.get("text"), str)
            return all(isinstance(part, dict) and is_text(part) for part in parts)
    return False


def _objects(name: str, key: str, fields: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    value = _json(fields.get(key))
    if not (isinstance(value, list | None) and all(isinstance(x, dict) for x in value or ())):
        raise UserError(f"{name}: {key} must be a list of objects")
    return value


def _json(value: Any) -> Any:
    """Reads a value that some files keep as JSON in a text; a text that is none stays as it is."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            if not is_deep(found := json.loads(value)):  # Templates go over it by recursion.
                return found
    return value


def as_given(message: Message) -> Message:
    """Returns what `transformers` gives a template: no nulls, and a thought under each name."""
    message = {key: value for key, value in message.items() if value is not None}
    thought = next((message[name] for name in _REASONING if name in message), None)
    if thought is None:
        return message
    return {"thinking": thought, **message, "reasoning_content": thought}


def texts(value: Any) -> Iterator[str]:
    """Yields every text in a JSON value, keys excepted."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (text for child in value.values() for text in texts(child))
    elif isinstance(value, list | tuple):
        yield from (text for child in value for text in texts(child))


def map_texts(value: Any, function: Callable[[str], str]) -> Any:
    """Replaces each text of a JSON value, keys excepted, by what the function makes of it."""
    if isinstance(value, str):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_texts(child, function) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [map_texts(child, function) for child in value]
    return value
