"""Encodes conversations as runs of before `task.date` was a key learned them: each part by itself.

No token has characters of both an answer and what stands before it. Contents are put in once the
template has run, which neither trims nor reads them.
"""

import re
from collections.abc import Sequence

import numpy as np

from lm.chat.chat_template import ChatTemplate, Example
from lm.chat.conversations import Conversation, Message, text_of
from lm.errors import UserError

# Private-use characters around a message's number.
_MARK = re.compile("\ue0f0(\\d+)\ue0f1")


class ChatTemplateApart(ChatTemplate):
    """Encodes the parts of a chat template one by one, behind a first token."""

    def examples(self, name: str, conversation: Conversation) -> list[Example]:
        """Returns one example, of all answers.

        Raises:
          UserError: the template refuses the messages, or writes earlier turns otherwise later on.
        """
        messages = conversation.messages
        ids, is_answer, done = [self._start()], [False], ""
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._marked(name, messages[:i], True)
            after = self._marked(name, messages[: i + 1], False)
            if not (before.startswith(done) and after.startswith(before)):
                raise UserError(
                    f"{name}: the chat template writes earlier turns differently once there are "
                    "later ones, which this run, as one of an earlier version, does not learn"
                )
            ids += [
                self._ids(before[len(done) :], messages),
                self._ids(after[len(before) :], messages),
            ]
            is_answer += [False, True]
            done = after
        return [Example(np.concatenate(ids), np.repeat(is_answer, list(map(len, ids))), [])]

    def prompt(self, name: str, conversation: Conversation) -> np.ndarray:
        """Returns the ids of what precedes the answer; see `ChatTemplate.prompt`."""
        text = self._marked(name, conversation.messages, True)
        return np.concatenate([self._start(), self._ids(text, conversation.messages)])

    def text(self, name: str, conversation: Conversation, *, is_continued: bool) -> str:
        text = super().text(name, conversation, is_continued=is_continued)
        return self._tokenizer.named_tokens.get("bos_token", "") + text

    def _start(self) -> np.ndarray:
        bos_id = self._tokenizer.bos_id
        return np.array([] if bos_id is None else [bos_id], np.int32)

    def _marked(self, name: str, messages: Sequence[Message], ask: bool) -> str:
        """Renders the text with a mark in the place of each message's content."""
        marked = [m | {"content": f"\ue0f0{i}\ue0f1"} for i, m in enumerate(messages)]
        return self._render.as_given(name, Conversation(marked), ask).text

    def _ids(self, text: str, messages: Sequence[Message]) -> np.ndarray:
        ids, start = [], 0
        for match in self._special.finditer(text):
            ids += [*self._encode_plain(text[start : match.start()], messages)]
            ids += [self._tokenizer.special_ids[match[0]]]
            start = match.end()
        return np.array([*ids, *self._encode_plain(text[start:], messages)], np.int32)

    def _encode_plain(self, text: str, messages: Sequence[Message]) -> list[int]:
        text = _MARK.sub(lambda match: text_of(messages[int(match[1])]), text)
        return self._tokenizer.encode_batch([text])[0].tolist() if text else []
