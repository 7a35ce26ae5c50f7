"""Conversations as tokens: a chat template, which is stored with the tokenizer.

Templates are those of `transformers`: Jinja, run in a sandbox. Special tokens count as such only
where the template itself writes them; a message that spells one stays text.
"""

import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import jinja2.sandbox
import numpy as np

from lm.data.tokenizers import Tokenizer
from lm.errors import UserError

FILE = "chat_template.jinja"
Message = dict[str, str]  # {"role": "user", "content": "..."}

# For tokenizers that bring none. The end-of-text token ends an answer.
DEFAULT = """\
{% for message in messages -%}
{% if message.role == "assistant" %}Assistant: {{ message.content }}{{ eos_token }}
{% elif message.role == "user" %}User: {{ message.content }}
{% else %}{{ message.content }}
{% endif %}{% endfor %}{% if add_generation_prompt %}Assistant: {% endif %}"""


class Part(NamedTuple):
    """Tokens of a conversation, and whether they are an assistant's, for the loss to be about."""

    ids: np.ndarray
    is_answer: bool


class ChatTemplate:
    """Turns messages into tokens.

    Args:
      source: the template.
      tokenizer: knows the special tokens that the template writes.

    Raises:
      UserError: the template is no Jinja.
    """

    def __init__(self, source: str, tokenizer: Tokenizer):
        self.source = source
        self._tokenizer = tokenizer
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise UserError(f"the chat template is no Jinja: {error}") from None
        ids = {
            tokenizer.piece(i): i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)
        }
        self._special_ids = {name: i for name, i in ids.items() if name}
        names = sorted(self._special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names)) or r"(?!)")

    def conversation(self, name: str, messages: Sequence[Message]) -> list[Part]:
        """All of it, in parts that are answers and parts that are not.

        With the template above, `hi` and the answer `hello` are the parts `User: hi⏎Assistant: `
        and `hello</s>⏎`.

        Raises:
          UserError: the template refuses the messages, or writes an answer elsewhere than behind
            its prompt.
        """
        parts, done = [], ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(name, messages[:i], True, messages)
            after = self._render(name, messages[: i + 1], False, messages)
            if not (before.startswith(done) and after.startswith(before)):
                raise UserError(
                    f"{name}: the chat template writes earlier turns differently once there are "
                    "later ones, so that answers cannot be told from the rest; take another"
                )
            parts += [self._part(before[len(done) :], messages, False)]
            parts += [self._part(after[len(before) :], messages, True)]
            done = after
        return parts

    def prompt(self, name: str, messages: Sequence[Message]) -> np.ndarray:
        """What precedes the answer to the last message."""
        text = self._render(name, messages, True, messages)
        return self._part(text, messages, False).ids

    def _render(
        self, name: str, messages: Sequence[Message], ask: bool, all_messages: Sequence[Message]
    ) -> str:
        """The text, with a mark in the place of each message's content."""
        marked = [m | {"content": _mark(i)} for i, m in enumerate(all_messages)][: len(messages)]
        piece = lambda i: "" if i is None else self._tokenizer.piece(i)
        try:
            return self._template.render(
                messages=marked,
                add_generation_prompt=ask,
                bos_token=piece(self._tokenizer.bos_id),
                eos_token=piece(self._tokenizer.eos_id),
            )
        except jinja2.TemplateError as error:
            raise UserError(f"{name}: the chat template refuses it: {error}") from None

    def _part(self, text: str, messages: Sequence[Message], is_answer: bool) -> Part:
        ids: list[int] = []
        plain = ""
        for piece in re.split(f"({self._special.pattern})", text):
            if piece in self._special_ids:
                ids += [*self._encode(plain, messages), self._special_ids[piece]]
                plain = ""
            else:
                plain += piece
        return Part(np.array(ids + self._encode(plain, messages), np.int32), is_answer)

    def _encode(self, text: str, messages: Sequence[Message]) -> list[int]:
        text = _MARK.sub(lambda match: messages[int(match[1])]["content"], text)
        return self._tokenizer.encode_batch([text])[0].tolist() if text else []


# Private-use characters around a message's number; a template has no reason to write them.
_MARK = re.compile("\ue0f0(\\d+)\ue0f1")


def _mark(index: int) -> str:
    return f"\ue0f0{index}\ue0f1"


def _raise(message: str) -> None:
    """What templates call to refuse a conversation."""
    raise jinja2.TemplateError(message)


def load(folder: pathlib.Path, tokenizer: Tokenizer) -> ChatTemplate | None:
    """The template beside a tokenizer's files; None where there is none."""
    path = folder / FILE
    return ChatTemplate(path.read_text(encoding="utf-8"), tokenizer) if path.exists() else None


def check_messages(name: str, messages: Any) -> list[Message]:
    """The messages of a record.

    Raises:
      UserError: no list of {"role", "content"}, an unknown role, or nothing that an assistant says.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f'{name}: messages must be a list of {{"role": ..., "content": ...}}')
    for i, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            raise UserError(f'{name}: message {i} is no {{"role": ..., "content": text}}')
        if message.get("role") not in ("system", "user", "assistant"):
            raise UserError(
                f"{name}: message {i} has the role {message.get('role')!r}; roles are system, "
                "user, assistant"
            )
    if not any(message["role"] == "assistant" for message in messages):
        raise UserError(f"{name}: no message is an assistant's, so there is nothing to learn")
    return messages
