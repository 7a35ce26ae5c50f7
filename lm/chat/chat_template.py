"""Turns conversations into tokens, laid out by a chat template.

The ids are those that `transformers` gives for the same conversation (`apply_chat_template`), with
one exception: special tokens count as such only where the template itself writes them, and a
message that spells one stays text.
"""

import bisect
import contextlib
import datetime
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.chat.conversations import ROLES, Conversation, map_texts, text_of, texts
from lm.chat.rendering import TRIALS, USED, Renderer
from lm.chat.template_program import unused_characters
from lm.errors import UserError
from lm.tokenizers import special_tokens
from lm.tokenizers.offsets import Offsets, Range
from lm.tokenizers.tokenizers import Tokenizer

# For tokenizers that bring none. The end-of-text token ends an answer. A line break stands before
# each text, and not a space, which would become part of its first token.
DEFAULT = """\
{{ bos_token }}{% for message in messages %}
{% if tools or documents or message.tool_calls %}
{{ raise_exception("the plain one knows no tools and no documents") }}
{% endif %}
{% if message.role != "system" %}{{ message.role | capitalize }}:{{ "\\n" }}{% endif %}
{% if message.content is string %}{{ message.content }}
{%- else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}
{% if message.role == "assistant" %}{{ eos_token }}{% endif %}{{ "\\n" }}{% endfor %}
{% if add_generation_prompt %}Assistant:{{ "\\n" }}{% endif %}"""


# Notes, which are worth a count at the start of a run.
SPLIT = "answers with a token across their border"
ASKED_BY_MORE = "answers asked for by more than stands before them"
ASKED_OTHERWISE = "answers before which earlier turns stand as they are asked"


class Example(NamedTuple):
    """Tokens of a conversation, and which of them are an assistant's, for the loss to be about.

    notes: `SPLIT`, `ASKED_BY_MORE`, `ASKED_OTHERWISE`, each as often as there are such answers.
    """

    ids: np.ndarray
    is_answer: np.ndarray
    notes: Sequence[str]


class End(NamedTuple):
    """What a template writes behind an answer, which a model learns to write.

    token_id: of a special token; None where it writes none.
    text: what else ends answers then, a marker alone or another text as it is written; "" for
      nothing.
    """

    token_id: int | None
    text: str


class _Part(NamedTuple):
    """A part of a text: the rendering of so many messages, `ask` or not, from a character on."""

    num_messages: int
    ask: bool
    start: int


class _Answer(NamedTuple):
    """An assistant's turn: a text that ends with it, the parts of that, and where it stands."""

    text: str
    parts: Sequence[_Part]
    spans: list[Range]
    notes: Sequence[str] = ()


class ChatTemplate:
    """Turns conversations into tokens.

    Args:
      sources: Jinja by name; "tool_use" is for conversations with tools, "default" for all others.
      tokenizer: knows the special tokens that the template writes.
      now: the time that a template may ask for.
      origin: where the template is from, for errors.

    Raises:
      UserError: a template is no Jinja.
    """

    def __init__(
        self,
        sources: Mapping[str, str],
        tokenizer: Tokenizer,
        *,
        now: datetime.datetime | None = None,
        origin: str = "",
    ):
        self.sources = dict(sources)
        self._tokenizer = tokenizer
        now = now or datetime.datetime.now()
        self._render = Renderer(self.sources, tokenizer.named_tokens, now, origin)
        self._special = special_tokens.pattern_of(tokenizer.special_ids)

    def examples(self, name: str, conversation: Conversation) -> list[Example]:
        """Returns what is learned of a conversation: its tokens, and which of them are answers.

        Answers are what the template's generation tag holds or, without such a tag, what it adds to
        the rendering of the messages before them with `add_generation_prompt`. A template that only
        ever adds to what it wrote gives one example, with all answers. One that rewrites earlier
        turns, such as by leaving out their thoughts, gives several: each answer is learned in one
        of them, behind the text that a model is asked for it with.

        With the template above, `hi` and the answer `hello` give `<s>User:⏎hi⏎Assistant:⏎`, and the
        answer `hello</s>⏎`.

        Raises:
          UserError: the template refuses the messages, or an answer cannot be told from the rest.
        """
        turns = [i for i, m in enumerate(conversation.messages) if m["role"] == "assistant"]
        answers = [self._answer(name, conversation, turn) for turn in turns]
        examples, rest = [], [answer for answer in answers if answer.spans]
        if not rest:
            raise UserError(f"{name}: the chat template's generation tag marks no answer")
        while rest:  # From the last on, whose text may hold the answers before it.
            *rest, last = rest
            spans, notes = list(last.spans), list(last.notes)
            while rest and (shared := self._shared_spans(rest[-1], last.text)):
                spans, notes = shared + spans, [*rest.pop().notes, *notes]
            encoded = self._encode(name, conversation, last.parts, last.text)
            examples.append(_example(encoded, spans, notes))
            if not examples[-1].is_answer.any():
                raise UserError(
                    f"{name}: nothing is to be learned: its answers are empty, or the chat "
                    "template leaves them out"
                )
        return examples[::-1]

    def prompt(self, name: str, conversation: Conversation) -> np.ndarray:
        """Returns the ids of what precedes the answer to the last message.

        Raises:
          UserError: the template refuses the messages.
        """
        text = self._render(name, conversation, True).text
        parts = [_Part(len(conversation.messages), True, 0)]
        return self._encode(name, conversation, parts, text).ids

    def text(self, name: str, conversation: Conversation, *, is_continued: bool) -> str:
        """Returns what precedes the answer to the last message or, if that is to be continued, the
        text up to its end, as `continue_final_message` of `transformers` has it.

        Raises:
          UserError: the template refuses the messages, or leaves out the end of the last one.
        """
        if not is_continued:
            return self._render(name, conversation, True).text
        *before, last = conversation.messages
        (mark,) = unused_characters(1, texts(conversation._asdict()))
        marked = last | {"content": f"{text_of(last)}{mark} "}
        conversation = conversation._replace(messages=[*before, marked])
        text, found, behind = self._render(name, conversation, False).text.rpartition(mark)
        if not found:
            raise UserError(f"{name}: the chat template leaves out the end of the last message")
        return text if behind.startswith(" ") else text.rstrip()  # It trims its messages.

    @functools.cached_property
    def end(self) -> End:
        """Finds what the template writes behind an answer; without any, no model learns to stop."""
        for trial in reversed(TRIALS):  # The one without a system's turn first.
            with contextlib.suppress(UserError):
                last = self._answer("a trial", Conversation(trial), len(trial) - 1)
                break
        else:
            return End(None, "")
        start, found, _ = last.text.rpartition("Pong.")
        if not found:
            return End(None, "")
        end = len(start + found)
        encoded = self._tokenizer.encode_written(last.text)
        learned = _is_answer(encoded, last.spans) & (encoded.starts >= end)
        special = filter(self._tokenizer.is_special, encoded.ids[learned].tolist())
        if (token_id := next(special, None)) is not None:
            return End(token_id, "")
        return End(None, _ending_text(last.text[end : last.spans[-1][1]]))

    def takes_role(self, role: Any) -> bool:
        """Whether it is a usual role, or one that the template names."""
        sources = [self.sources.get(name, "") for name in USED]
        return role in ROLES or any(f"{q}{role}{q}" in s for q in "'\"" for s in sources)

    def _answer(self, name: str, conversation: Conversation, turn: int) -> _Answer:
        """Finds an answer in the text that ends with it."""
        where = f"{name}, message {turn + 1}"
        render = lambda num, ask: self._render(where, conversation.first(num), ask)
        after, parts = render(turn + 1, False), [_Part(turn + 1, False, 0)]
        text = after.text
        if after.answers is not None:  # The template marks them itself.
            done = render(turn, False).text if turn else ""
            start = len(done)
            if not text.startswith(done):  # Earlier turns are written otherwise by now.
                start = self._end_of_shared(where, conversation.first(turn), text)
            return _Answer(text, parts, [span for span in after.answers if span[1] > start])
        before = render(turn, True).text
        if text.startswith(before):
            return _Answer(text, parts, [(len(before), len(text))])
        done = render(turn, False).text
        shared = self._shared(before, text)
        if text.startswith(done) and shared > len(done):
            # What asks may have more in it than what stands before an answer: a thought begun, say.
            return _Answer(text, parts, [(shared, len(text))], [ASKED_BY_MORE])
        start = self._end_of_header(where, conversation.first(turn), before, done, text)
        joined, parts = before + text[start:], [_Part(turn, True, 0), _Part(turn + 1, False, start)]
        return _Answer(joined, parts, [(len(before), len(joined))], [ASKED_OTHERWISE])

    def _end_of_header(
        self, where: str, asked: Conversation, before: str, done: str, after: str
    ) -> int:
        """Returns where an answer begins in a rendering that rewrites the turns before it.

        Args:
          where: what errors call the answer.
          asked: the messages before it.
          before: their rendering with `add_generation_prompt`; done: the one without.
          after: the rendering that ends with the answer.
        """
        # The prompt is no prefix of `after`, but its end, such as an assistant's header, still
        # stands before the answer: the longest suffix that is in what no answer would change.
        same = after[: self._end_of_shared(where, asked, after)]
        lengths = range(1, len(before) + 1)
        length = bisect.bisect_left(lengths, True, key=lambda n: before[-n:] not in same)
        end = before[len(before) - length :]
        header = before.removeprefix(done)
        # A suffix without all of that header, or else without a special token, may be chance.
        if len(end) < len(header) or not (header or self._special.search(end)):
            raise UserError(
                f"{where}: the chat template writes what is before this answer differently once "
                "the answer is there, so that it cannot be told from the rest; take a template "
                "with a generation tag, or leave this conversation out"
            )
        return same.rfind(end) + len(end)

    def _end_of_shared(self, where: str, asked: Conversation, after: str) -> int:
        """Returns up to where a text with an answer at its end is the same whatever that says."""
        [mark] = unused_characters(1, [after])
        other = asked._replace(messages=[*asked.messages, {"role": "assistant", "content": mark}])
        return self._shared(after, self._render(where, other, False).text)

    def _shared_spans(self, answer: _Answer, text: str) -> list[Range] | None:
        """Finds an answer in a later text that has it unchanged; None for another text."""
        *spans, (start, end) = answer.spans
        shared = self._shared(answer.text, text)
        if shared < end:  # Only special tokens may be missing, such as the </s> of the last answer.
            learned, missing = answer.text[start:shared], answer.text[shared:end]
            *before, behind = self._special.split(learned)
            is_ended = before and not behind.strip()
            if not is_ended or self._special.sub("", missing).strip():
                return None
        return [*spans, (start, min(end, shared))]

    def _shared(self, a: str, b: str) -> int:
        """Counts the characters that two texts share from their start, cutting no special token."""
        lengths = range(1, min(len(a), len(b)) + 1)  # By bisection: texts may have megabytes.
        shared = bisect.bisect_left(lengths, True, key=lambda n: a[:n] != b[:n])
        for text in (a, b):
            for match in self._special.finditer(text):
                if match.start() < shared < match.end():
                    shared = match.start()
        return shared

    def _encode(
        self, name: str, conversation: Conversation, parts: Sequence[_Part], text: str
    ) -> Offsets:
        as_text: list[Range] = []
        if any(self._special.search(value) for value in texts(conversation._asdict())):
            length = 0
            for num_messages, ask, start in parts:
                part, ranges = self._spelt(name, conversation.first(num_messages), ask)
                as_text += [(i + length - start, j + length - start) for i, j in ranges]
                length += len(part) - start
        return self._tokenizer.encode_written(text, as_text)

    def _spelt(self, name: str, conversation: Conversation, ask: bool) -> tuple[str, list[Range]]:
        """Returns a rendering, and where in it a message or a tool spells a special token."""
        given, text = conversation._asdict(), self._render(name, conversation, ask).text
        before, after, other = unused_characters(3, [text, *texts(given)])

        # Renderings show where, in which these are spelt otherwise.
        def render_with(replace: Callable[[re.Match], str]) -> str:
            replaced = map_texts(given, lambda text: self._special.sub(replace, text))
            return self._render(name, Conversation(**replaced), ask).text

        # Marked before and behind, so that a template which looks for one still finds it.
        marked = render_with(lambda match: f"{before}{match[0]}{after}")
        ranges, plain = _marked_ranges(marked, before, after, self._special)
        if plain == text:
            return text, ranges
        # Or by as many other characters, for a template that trims or counts.
        replaced = render_with(lambda match: other * len(match[0]))
        ranges = [match.span() for match in re.finditer(f"{other}+", replaced)]
        if _without(text, ranges) == replaced.replace(other, "") and len(text) == len(replaced):
            return text, ranges
        spelt = next(filter(None, map(self._special.search, texts(given))))[0]
        raise UserError(
            f"{name}: it spells the special token {spelt}, of which the chat template makes "
            "something else, so that it cannot be told from the template's own; take it out"
        )


def _ending_text(written: str) -> str:
    """Returns what, of a text behind an answer, no answer would say itself; "" for nothing."""
    # A marker such as <end> ends an answer wherever it stands. Other text does only behind white
    # space: an answer may say a full stop itself.
    if re.fullmatch(r"\s*(<[^\s<>]+>|\[[^\s\[\]]+\])\s*", written):
        return written.strip()
    return written if written[:1].isspace() and not written.isspace() else ""


def _is_answer(encoded: Offsets, spans: Sequence[Range]) -> np.ndarray:
    """Marks tokens with a character inside of these, and those added before one of them."""
    is_answer = np.zeros(len(encoded.ids), bool)
    for start, end in spans:  # An added token has an empty range, in which start == end.
        is_answer |= (encoded.starts < end) & ((encoded.ends > start) | (encoded.starts >= start))
    return is_answer


def _example(encoded: Offsets, spans: Sequence[Range], notes: Sequence[str]) -> Example:
    starts_L1, ends_L1 = encoded.starts[:, None], encoded.ends[:, None]
    edges_E2 = np.array(spans)
    is_inside = lambda edge_E: ((starts_L1 < edge_E) & (edge_E < ends_L1)).any(axis=0)
    num_split = int((is_inside(edges_E2[:, 0]) | is_inside(edges_E2[:, 1])).sum())
    return Example(encoded.ids, _is_answer(encoded, spans), [*notes, *[SPLIT] * num_split])


def _marked_ranges(
    marked: str, before: str, after: str, special: re.Pattern
) -> tuple[list[Range], str]:
    """Returns where, in the text without marks, stands what two of them held; and that text."""
    ranges, parts, length, end = [], [], 0, 0
    for match in re.finditer(f"{before}({special.pattern}){after}|[{before}{after}]", marked):
        parts += [marked[end : match.start()], match[1] or ""]
        length += len(parts[-2])
        ranges += [(length, length + len(parts[-1]))] * bool(parts[-1])
        length, end = length + len(parts[-1]), match.end()
    return ranges, "".join([*parts, marked[end:]])


def _without(text: str, ranges: Sequence[Range]) -> str:
    edges = [0, *(edge for span in ranges for edge in span), len(text)]
    return "".join(text[i:j] for i, j in zip(edges[::2], edges[1::2], strict=True))
