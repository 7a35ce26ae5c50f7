"""Turns the tokens that a model writes, one by one, into text as it may be shown."""

from collections.abc import Sequence
from typing import NamedTuple

from lm.tokenizers.tokenizers import Tokenizer


class Stops(NamedTuple):
    """Lists what ends a text."""

    ids: tuple[int, ...]  # Of tokens that end it and are no part of it.
    strings: tuple[str, ...]  # Where one of these is in the text, the text ends before it.


class Written(NamedTuple):
    """Holds what a model has written."""

    text: str  # Without what ended it.
    num_tokens: int  # Up to its end; those of a stop string count, a stop id does not.
    finish_reason: str  # "stop", or "length" where it got as many tokens as it may have.
    stop_reason: str | None  # The stop string, or the stop token's name; None for "length".


class TextStream:
    """Gives the text of each token as soon as no later one can change it.

    What `push` and `finish` have given, one after the other, is the text that all tokens together
    decode to, up to what ends it. Held back is

    - a character whose bytes are not all there; if they never come, it is no text;
    - the end of the text, as long as it may be the beginning of a stop string.

    The first token that completes a stop string ends the text, before the stop string that begins
    first; what is pushed behind an end changes nothing.

        stream = TextStream(tokenizer, prompt_ids, Stops(tokenizer.stop_ids, ("\n\n",)))
        for token_id in new_ids:
            show(stream.push(token_id))
            if stream.stopped:
                break
        show(stream.finish())

    Args:
      tokenizer: of the model.
      before: tokens that the text goes on from, so that the space between the two is kept; none
        for a text of its own.
      stops: what ends the text.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int], stops: Stops):
        self._tokenizer, self._stops = tokenizer, stops
        # The last tokens: first some whose text is known, so that a decoder which treats the start
        # of a text in its own way has done so, then those of a character that is not whole.
        self._tokens, self._num_known = list(before), len(before)
        self._known = tokenizer.decode(self._tokens) if before else ""
        self._given: list[str] = []
        self._held = ""
        self.num_tokens = 0  # See `Written`.
        self._stop_reason: str | None = None

    @property
    def stopped(self) -> bool:
        """Whether something has ended the text, so that no more tokens are needed."""
        return self._stop_reason is not None

    @property
    def written(self) -> Written:
        """Sums up what was given so far; whole after `finish`."""
        reason = "stop" if self.stopped else "length"
        return Written("".join(self._given), self.num_tokens, reason, self._stop_reason)

    def push(self, token_id: int) -> str:
        """Takes the next token, and returns what may be shown of it and of those before it."""
        if self.stopped:
            return ""
        if token_id in self._stops.ids:
            self._stop_reason = self._tokenizer.piece(token_id)
            return self.finish()
        self.num_tokens += 1
        self._tokens.append(token_id)
        self._held += self._new_text()
        if found := [(self._held.find(s), s) for s in self._stops.strings if s in self._held]:
            end, self._stop_reason = min(found)
            given, self._held = self._held[:end], ""
            return self._give(given)
        first = self._first_of_a_stop()
        given, self._held = self._held[:first], self._held[first:]
        return self._give(given)

    def finish(self) -> str:
        """Returns what was held back, now that no more tokens come."""
        given, self._held = self._held, ""
        return self._give(given)

    def _give(self, text: str) -> str:
        self._given.append(text)
        return text

    def _new_text(self) -> str:
        """Decodes the characters that have become whole, however many tokens they took."""
        decode = self._tokenizer.decode
        text = decode(self._tokens)
        if text.endswith("\ufffd"):
            return ""
        if not text.startswith(self._known):  # It ended in half a character, which is whole now.
            self._known = self._known.rstrip("\ufffd")
        new = text[len(self._known) :]
        latest = self._tokens[self._num_known :]
        if text_of_latest := decode(latest):
            self._tokens, text = latest, text_of_latest
        self._num_known, self._known = len(self._tokens), text
        return new

    def _first_of_a_stop(self) -> int:
        """Finds where a stop string may begin that has not come to its end."""
        held = self._held
        longest = max(map(len, self._stops.strings), default=0)
        for first in range(max(0, len(held) - longest + 1), len(held)):
            if any(string.startswith(held[first:]) for string in self._stops.strings):
                return first
        return len(held)
