"""Finds where a written text ends: at a stop id, at a stop string, or at its last token."""

import bisect
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from lm.tokenizers.tokenizers import Tokenizer


class Stops(NamedTuple):
    """Lists what ends a text."""

    ids: tuple[int, ...]  # Of tokens that end it and are no part of it.
    strings: tuple[str, ...]  # Where one of these is in the text, the text ends before it.


def stops(tokenizer: Tokenizer, ids: Iterable[int], strings: Iterable[str]) -> Stops:
    """Turns special tokens among the strings into ids, for no decoded text holds them."""
    ids, texts = list(ids), []
    for string in filter(None, strings):
        token_id = tokenizer.special_ids.get(string.strip())
        ids += [] if token_id is None else [token_id]
        texts += [string] if token_id is None else []
    return Stops(tuple(dict.fromkeys(ids)), tuple(texts))


def finder(
    tokenizer: Tokenizer, befores: Sequence[Sequence[int]], strings: Sequence[str]
) -> Callable[[int, Sequence[int]], bool] | None:
    """Makes is_ended(index of a text, its new tokens): do they hold a stop string? None without.

    Args:
      tokenizer: of the model.
      befores: of each text, see `written`.
      strings: that end a text.
    """
    if not strings:
        return None

    def is_ended(index: int, tokens: Sequence[int]) -> bool:
        text = _decoder(tokenizer, befores[index])(tokens)
        return any(string in text for string in strings)

    return is_ended


class Written(NamedTuple):
    """Holds what a model has written."""

    text: str  # Without what ended it.
    num_tokens: int  # Up to its end; those of a stop string count, a stop id does not.
    finish_reason: str  # "stop", or "length" where it got as many tokens as it may have.
    stop_reason: str | None  # The stop string, or the stop token's name; None for "length".


def written(
    tokenizer: Tokenizer,
    before: Sequence[int],
    tokens: Sequence[int],
    stop_id: int | None,
    strings: Sequence[str],
) -> Written:
    """Decodes new tokens up to what ends them.

    The first token that completes a stop string ends the text, whatever comes behind it, as if each
    token had been looked at when it was written.

    Args:
      tokenizer: of the model.
      before: tokens that the text goes on from, so that the space between the two is kept; none
        for a text of its own.
      tokens: the new ones, without the one that ended them.
      stop_id: that one, None where none did.
      strings: that end a text.
    """
    decode = _decoder(tokenizer, before)
    is_ended = lambda num: any(string in decode(tokens[:num]) for string in strings)
    if is_ended(len(tokens)):
        # Once a string is complete it stays in the text, so that halving finds the first token.
        num = bisect.bisect_left(range(len(tokens)), True, key=is_ended)
        text = decode(tokens[:num])
        at, string = min((text.find(string), string) for string in strings if string in text)
        return Written(text[:at], num, "stop", string)
    text = decode(tokens)
    if stop_id is None:
        return Written(text, len(tokens), "length", None)
    return Written(text, len(tokens), "stop", tokenizer.piece(stop_id))


def _decoder(tokenizer: Tokenizer, before: Sequence[int]) -> Callable[[Sequence[int]], str]:
    """Returns decode(new tokens) -> their text."""
    # A decoder may take the first space of a text away, so the new ones are decoded with those
    # before them, and the text of those is cut off.
    length = len(tokenizer.decode(before)) if before else 0

    def decode(tokens):
        text = tokenizer.decode([*before, *tokens])[length:]
        if not text.endswith("\ufffd"):
            return text
        # A character whose bytes are not all there is no text yet. Some decoders spoil the whole
        # characters before it, too, unless its bytes, three at most, are left out.
        ends = range(len(tokens), max(len(tokens) - 4, -1), -1)
        texts = (tokenizer.decode([*before, *tokens[:end]])[length:] for end in ends)
        return max((text.rstrip("\ufffd") for text in texts), key=len)

    return decode
