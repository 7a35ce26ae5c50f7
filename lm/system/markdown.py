"""Writes Markdown around text of others, which stays text."""

import re
from collections.abc import Sequence

from lm.system import safe_text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Makes a table, or "None." without rows."""
    if not rows:
        return "None."
    lines = [header, ["---"] * len(header), *(map(cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(text: str) -> str:
    """Keeps text of others in its cell, and from being markup."""
    line = " ".join(safe_text.shown(text).split())
    return re.sub(r"([\\`*\[\]<>#|&~]|(?<!\w)_|_(?!\w))", r"\\\1", line)


def fenced(text: str, language: str) -> str:
    """Makes a block of code, whatever backticks it holds."""
    fence = max(["```", *(f"{run}`" for run in re.findall("`{3,}", text))], key=len)
    return f"{fence}{language}\n{safe_text.shown(text).rstrip()}\n{fence}"
