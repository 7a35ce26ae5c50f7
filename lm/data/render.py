"""What a batch holds, for people: decoded tokens with their segments and loss weights.

Dimension key: B batch, L length.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import rich.console
import rich.rule
import rich.text

from lm.tokenizers.pieces import NEWLINE_MARK, printable
from lm.tokenizers.tokenizers import Tokenizer

# Two shades for each segment, in turns, so that one sees where a token ends.
_SHADES = (
    ("bright_cyan", "dark_cyan"),
    ("bright_yellow", "dark_goldenrod"),
    ("bright_magenta", "medium_orchid3"),
    ("bright_green", "green4"),
)
MAX_ROWS = 4


class Stream(NamedTuple):
    """One array of tokens that a model reads or writes; all arrays are B x L."""

    title: str  # Said before it; "" for none.
    tokens_BL: np.ndarray
    segment_ids_BL: np.ndarray
    weights_BL: np.ndarray | None = None  # Of the loss; None where it is not about these tokens.
    targets_BL: np.ndarray | None = None  # To say in place of a token; -1 or None for none.


def render(
    streams: Sequence[Stream], tokenizer: Tokenizer, max_rows: int = MAX_ROWS
) -> rich.console.Group:
    """Makes what `rich.print` shows of the first rows of a batch, with or without colour.

    Each segment stands under its number, in its own colour. A token without loss is dimmed and in
    angle brackets; a weight other than 0 and 1 follows its token, and so does, behind an arrow, the
    target that must be said in its place. A character in several tokens is whole.
    """
    num_rows = streams[0].tokens_BL.shape[0]
    parts: list[rich.console.RenderableType] = []
    for b in range(min(num_rows, max_rows)):
        for stream in streams:
            parts += _row(stream, b, tokenizer)
    if num_rows > max_rows:
        parts.append(rich.text.Text(f"and {num_rows - max_rows} rows more", style="italic"))
    return rich.console.Group(*parts)


def _row(stream: Stream, b: int, tokenizer: Tokenizer) -> list[rich.console.RenderableType]:
    segments, tokens = stream.segment_ids_BL[b], stream.tokens_BL[b]
    targets = np.full(len(tokens), -1) if stream.targets_BL is None else stream.targets_BL[b]
    weights = np.ones(len(tokens))
    facts = f"{segments.max()} segments, {np.sum(segments > 0)} tokens, "
    if stream.weights_BL is not None:
        weights = np.asarray(stream.weights_BL[b], np.float64)
        facts += f"{np.sum(weights > 0)} in the loss, "
    elif stream.targets_BL is not None:
        facts += f"{np.sum(targets >= 0)} in the loss, "
    facts += f"{np.sum(segments == 0)} of {len(segments)} empty"
    title = f"row {b} of {len(stream.tokens_BL)}{', ' * bool(stream.title)}{stream.title}: {facts}"
    parts: list[rich.console.RenderableType] = [rich.rule.Rule(title, align="left", characters="─")]
    for segment in range(1, segments.max() + 1):
        here = segments == segment
        label = f"[{segment}] positions 0 to {np.sum(here) - 1}"
        parts.append(rich.text.Text(label, style="bold reverse"))
        parts.append(_segment(tokens[here], weights[here], targets[here], segment, tokenizer))
    return parts


def _segment(
    tokens: np.ndarray,
    weights: np.ndarray,
    targets: np.ndarray,
    segment: int,
    tokenizer: Tokenizer,
) -> rich.text.Text:
    text = rich.text.Text()
    shades = itertools.cycle(_SHADES[segment % len(_SHADES)])
    for piece, weight, target in _pieces(tokens, weights, targets, tokenizer):
        shade = next(shades)
        if target >= 0:
            text.append(f"{piece}→{_piece(target, tokenizer)}", style=f"reverse {shade}")
        elif weight == 0:
            text.append(f"⟨{piece}⟩", style=f"dim {shade}")
        else:
            text.append(piece if weight == 1 else f"{piece}×{weight:g}", style=shade)
        if NEWLINE_MARK in piece:  # Lines stay lines, so that code reads as code.
            text.append("\n")
    if text.plain.endswith("\n"):
        text.right_crop(1)  # The group ends each of its lines by itself.
    return text


def _piece(token: int, tokenizer: Tokenizer) -> str:
    is_special = tokenizer.is_special(token)
    return tokenizer.piece(token) if is_special else printable(tokenizer.raw(token))


def _pieces(
    tokens: np.ndarray, weights: np.ndarray, targets: np.ndarray, tokenizer: Tokenizer
) -> Iterator[tuple[str, float, int]]:
    """Yields text, weight and target of each token, or of tokens that share a character."""
    waiting: list[tuple[int, float]] = []  # The tokens of a character that is not whole yet.

    def apart(num: int) -> Iterator[tuple[str, float, int]]:  # As bytes: no text has half of it.
        for token, weight in waiting[:num]:
            yield _piece(token, tokenizer), weight, -1
        del waiting[:num]

    for token, weight, target in zip(tokens.tolist(), weights, targets.tolist(), strict=True):
        if tokenizer.is_special(token) or target >= 0:
            yield from apart(len(waiting))
            yield _piece(token, tokenizer), weight, target
            continue
        if waiting and waiting[-1][1] != weight:
            yield from apart(len(waiting))
        waiting.append((token, weight))
        while waiting:
            data = b"".join(tokenizer.raw(token) for token, _ in waiting)
            try:
                data.decode()
            except UnicodeDecodeError as error:
                if error.reason == "unexpected end of data":  # The next token may complete it.
                    break
                yield from apart(1)  # Those behind it may be a character by themselves.
            else:
                yield printable(data), weight, -1
                waiting.clear()
    yield from apart(len(waiting))


def spelled(tokens: Sequence[int], tokenizer: Tokenizer) -> str:
    r"""Returns the text of tokens, with bytes that are in no character as \xNN, not as U+FFFD."""
    text = tokenizer.decode(tokens)
    if "\ufffd" not in text:
        return text
    data = b"".join(tokenizer.raw(token) for token in tokens if not tokenizer.is_special(token))
    return data.decode(errors="backslashreplace")
