"""Chooses which template lays a conversation out, and in which form it gets the contents."""

import contextlib
import datetime
import functools
import itertools
from collections.abc import Mapping

from lm.chat.conversations import ROLES, Conversation, as_given, parts_of, text_of
from lm.chat.template_program import Program, Rendered
from lm.errors import UserError

USED = ("default", "tool_use")  # Of the templates that a model may have.

# What shows how a template writes; some refuse one of them.
TRIALS = (
    [
        {"role": "system", "content": "Play."},
        {"role": "user", "content": "Ping?"},
        {"role": "assistant", "content": "Pong."},
    ],
    [{"role": "user", "content": "Ping?"}, {"role": "assistant", "content": "Pong."}],
)


class Renderer:
    """Renders conversations, whether the template reads contents as texts or as parts.

    `tokens` are special tokens by what templates call them; the rest is as of `ChatTemplate`.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        tokens: Mapping[str, str],
        now: datetime.datetime,
        origin: str,
    ):
        self._tokens, self._now = tokens, now
        whose = f" of {origin}" if origin else ""
        self._programs = {
            name: Program(sources[name], f"the chat template {name!r}{whose}")
            for name in USED
            if name in sources
        }

    def __call__(self, name: str, conversation: Conversation, ask: bool) -> Rendered:
        """Returns what the template writes, whichever form of contents it reads.

        Raises:
          UserError: it refuses the messages.
        """
        conversation = conversation._replace(messages=list(map(as_given, conversation.messages)))
        reads_parts = lambda message: message["role"] in self._roles_of_parts
        conversation = conversation.with_contents(parts_of, reads_parts)
        unsure = [m for m in conversation.messages if not reads_parts(m)]
        with_parts = [m["content"] for m in unsure if isinstance(m.get("content"), list)]
        if not with_parts:
            return self.as_given(name, conversation, ask)
        try:
            rendered = self.as_given(name, conversation, ask)
        except UserError:
            rendered = None
        # A template that knows texts alone writes a list of parts as Python does, or fails.
        if rendered is None or any(str(parts) in rendered.text for parts in with_parts):
            knows_text = lambda message: not reads_parts(message)
            return self.as_given(name, conversation.with_contents(text_of, knows_text), ask)
        return rendered

    @functools.cached_property
    def _roles_of_parts(self) -> frozenset[str]:
        """Roles whose contents are lost as texts, as by templates of models that see pictures."""

        def is_lost(conversation: Conversation) -> bool:
            with contextlib.suppress(UserError):
                text = self.as_given("a trial", conversation, False).text
                said = [text_of(message) for message in conversation.messages]
                return any(x not in text or f"'{x}'" in text for x in said)  # As a list is written.
            return True  # It refuses the trial.

        for trial in TRIALS:
            roles = [message["role"] for message in trial]
            for as_parts in itertools.product([False, True], repeat=len(roles)):  # All texts first.
                of_parts = frozenset(itertools.compress(roles, as_parts))
                wanted = lambda message, of_parts=of_parts: message["role"] in of_parts
                if not is_lost(Conversation(trial).with_contents(parts_of, wanted)):
                    return of_parts | ({*ROLES} - {*roles} if "user" in of_parts else set())
        return frozenset()

    def as_given(self, name: str, conversation: Conversation, ask: bool) -> Rendered:
        """Returns what the template writes of messages in the form that they have.

        Raises:
          UserError: it refuses them.
        """
        with_tools = conversation.tools is not None and "tool_use" in self._programs
        program = self._programs["tool_use" if with_tools else "default"]
        variables = {  # The later win: no variable can hide the messages.
            **self._tokens,
            **conversation.variables,
            "messages": conversation.messages,
            "tools": conversation.tools,
            "documents": conversation.documents,
            "add_generation_prompt": ask,
        }
        return program.render(name, variables, self._now)
