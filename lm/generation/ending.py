"""Finds where a written text ends: at a stop id, at a stop string, or at its last token."""

from collections.abc import Callable, Iterable, Sequence

from lm.generation.text_stream import Stops, TextStream, Written
from lm.tokenizers.tokenizers import Tokenizer


def stops(tokenizer: Tokenizer, ids: Iterable[int], strings: Iterable[str]) -> Stops:
    """Turns special tokens among the strings into ids, for no decoded text holds them."""
    ids, texts = list(ids), []
    for string in filter(None, strings):
        token_id = tokenizer.special_ids.get(string.strip())
        ids += [] if token_id is None else [token_id]
        texts += [string] if token_id is None else []
    return Stops(tuple(dict.fromkeys(ids)), tuple(texts))


def finder(
    tokenizer: Tokenizer,
    befores: Sequence[Sequence[int]],
    strings: Sequence[str],
    show: Callable[[str], None] | None = None,
) -> Callable[[int, Sequence[int]], bool] | None:
    """Makes is_ended(index of a text, its new tokens): do they hold a stop string?

    None where there is neither a string nor `show`.

    Args:
      tokenizer: of the model.
      befores: of each text, see `TextStream`.
      strings: that end a text.
      show: is given what may be shown of each token.
    """
    if not strings and show is None:
        return None
    show = show or (lambda text: None)
    streams = [TextStream(tokenizer, before, Stops((), tuple(strings))) for before in befores]

    def is_ended(index: int, tokens: Sequence[int]) -> bool:
        stream = streams[index]
        for token_id in tokens[stream.num_tokens :]:  # Earlier ones it has seen.
            show(stream.push(token_id))
        return stream.stopped

    return is_ended


def written(
    tokenizer: Tokenizer,
    before: Sequence[int],
    tokens: Sequence[int],
    stop_id: int | None,
    strings: Sequence[str],
) -> Written:
    """Decodes new tokens up to what ends them, as if each had been looked at as it was written.

    Args:
      tokenizer: of the model.
      before: see `TextStream`.
      tokens: the new ones, without the one that ended them.
      stop_id: that one, None where none did.
      strings: that end a text.
    """
    last = () if stop_id is None else (stop_id,)
    stream = TextStream(tokenizer, before, Stops(last, tuple(strings)))
    for token_id in (*tokens, *last):
        stream.push(token_id)
    stream.finish()
    return stream.written
