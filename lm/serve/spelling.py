"""Spells tokens and log-probabilities as clients read them."""

import math

from lm.tokenizers.tokenizers import Tokenizer

_NO_LIKELIHOOD = -9999.0  # JSON has no infinity.


def token_bytes(tokenizer: Tokenizer, token_id: int) -> bytes:
    """Returns what a token adds to a text; of a special one, its name."""
    if tokenizer.is_special(token_id):
        return tokenizer.piece(token_id).encode()
    return tokenizer.raw(token_id)


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    r"""Spells a token; one that is a part of a character as `bytes:\xe2\x82`."""
    raw = token_bytes(tokenizer, token_id)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def log_probability(value: float) -> float:
    """Returns a log-probability as JSON can hold it."""
    return value if math.isfinite(value) else _NO_LIKELIHOOD
