"""Made-up records whose rule a model may find, or may not."""

from collections.abc import Iterator
from typing import Any

_FIRST = ord("!")
NUM_SYMBOLS = ord("~") - _FIRST + 1  # Printable characters of ASCII, so that a byte is a number.


def modular_addition(modulus: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """All sums of two numbers modulo a third (Power et al. 2022, appendix A.1.1).

    A number is a character, 0 is `!`. Modulo 5, 1 + 3 = 4 is {"text": "\"$", "label": "%"}.
    """
    for a in range(modulus):
        for b in range(modulus):
            text, label = _symbol(a) + _symbol(b), _symbol((a + b) % modulus)
            yield f"{a} + {b} modulo {modulus}", {"text": text, "label": label}


def _symbol(number: int) -> str:
    return chr(_FIRST + number)
