"""Spells tokens as people read them, and as bytes."""

import re
from collections.abc import Iterable

KIND = "kind.txt"  # What a saved tokenizer is.
NEWLINE_MARK = "⏎"
SPACE_MARK = "\u2581"  # As SentencePiece spells a space.


def printable(data: bytes) -> str:
    r"""Spells text for a table: b"a\n" is "a⏎", and a byte that is no UTF-8 alone is "\xNN"."""
    text = data.decode(errors="backslashreplace").replace("\n", NEWLINE_MARK).replace("\t", "⇥")
    # The space that Chinese paragraphs begin with is as wide as a character, and shows.
    shows = lambda c: c.isprintable() or c == "\u3000"
    return "".join(c if shows(c) else c.encode("unicode_escape").decode() for c in text)


def byte_of(piece: str) -> bytes | None:
    """Returns the byte of a piece such as "<0x0A>"; None for other pieces."""
    named = re.fullmatch("<0x([0-9A-F]{2})>", piece)
    return bytes.fromhex(named[1]) if named else None


def _byte_level() -> dict[str, int]:
    """Returns bytes by the characters that byte-level BPE writes for them (Radford et al. 2019)."""
    # Latin-1's visible ones are themselves; the others, in order, are U+0100 and what follows it.
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in visible]
    by_character = {chr(byte): byte for byte in visible}
    return by_character | {chr(0x100 + i): byte for i, byte in enumerate(others)}


BYTE_OF_CHARACTER = _byte_level()


def of_byte_level(piece: str) -> bytes:
    """Returns the bytes of a piece of byte-level BPE: "Ġthe" is b" the"."""
    known = BYTE_OF_CHARACTER
    return b"".join(bytes([known[c]]) if c in known else c.encode() for c in piece)


def first(ids: Iterable[int | None]) -> int | None:
    """Returns the first that is not None."""
    return next((i for i in ids if i is not None), None)
