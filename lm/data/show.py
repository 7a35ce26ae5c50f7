"""What a batch holds, for people: decoded tokens with their segments and loss weights.

Dimension key: B batch, L length.
"""

import itertools

import numpy as np
import rich.console
import rich.rule
import rich.text

from lm.data.rows import Rows
from lm.data.tokenizers import NEWLINE_MARK, Tokenizer

# Two shades for each segment, in turns, so that one sees where a token ends.
_SHADES = (
    ("bright_cyan", "dark_cyan"),
    ("bright_yellow", "dark_goldenrod"),
    ("bright_magenta", "medium_orchid3"),
    ("bright_green", "green4"),
)


def render(
    rows: Rows, tokenizer: Tokenizer, weights_BL: np.ndarray | None = None, max_rows: int = 4
) -> rich.console.Group:
    """The first rows of a batch as something that `rich.print` shows, with or without colour.

    Each segment stands on its own under its number, in its own colour. Tokens that carry no loss
    are dimmed and stand in angle brackets; other weights than 0 and 1 follow their token.

    Args:
      rows: B x L.
      tokenizer: of these rows.
      weights_BL: loss weights by position; by default 1 wherever there is a next token.
      max_rows: how many rows to show.
    """
    if weights_BL is None:
        weights_BL = rows.next_BL >= 0
    num_rows, seq_len = rows.tokens_BL.shape
    parts: list[rich.console.RenderableType] = []
    for b in range(min(num_rows, max_rows)):
        segments, weights = rows.segment_ids_BL[b], np.asarray(weights_BL[b], np.float64)
        parts.append(
            rich.rule.Rule(
                f"row {b} of {num_rows}: {segments.max()} segments, {np.sum(segments > 0)} tokens, "
                f"{np.sum(weights > 0)} in the loss, {np.sum(segments == 0)} of {seq_len} empty",
                align="left",
                characters="─",
            )
        )
        for segment in range(1, segments.max() + 1):
            here = segments == segment
            positions = rows.positions_BL[b][here]
            label = f"[{segment}] positions {positions.min()} to {positions.max()}"
            parts.append(rich.text.Text(label, style="bold reverse"))
            parts.append(_segment(rows.tokens_BL[b][here], weights[here], segment, tokenizer))
    if num_rows > max_rows:
        parts.append(rich.text.Text(f"and {num_rows - max_rows} rows more", style="italic"))
    return rich.console.Group(*parts)


def _segment(
    tokens: np.ndarray, weights: np.ndarray, segment: int, tokenizer: Tokenizer
) -> rich.text.Text:
    text = rich.text.Text()
    shades = itertools.cycle(_SHADES[segment % len(_SHADES)])
    for token, weight, shade in zip(tokens.tolist(), weights, shades, strict=False):
        piece = tokenizer.piece(token)
        if weight == 0:
            text.append(f"⟨{piece}⟩", style=f"dim {shade}")
        else:
            text.append(piece if weight == 1 else f"{piece}×{weight:g}", style=shade)
        if NEWLINE_MARK in piece:  # Lines stay lines, so that code reads as code.
            text.append("\n")
    if text.plain.endswith("\n"):
        text.right_crop(1)
    return text
