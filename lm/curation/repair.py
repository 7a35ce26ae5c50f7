"""Repair of texts that were decoded by the wrong encoding, or hold what is no text.

Changes nothing of a text that is well, in any script.
"""

import codecs
import re

import ftfy

from lm.errors import UserError

# All that rewrites good text is off: by default ftfy makes ASCII of full-width punctuation and
# digits, which Chinese is written with, and of curled quotes; and "&lt;" is what a text about HTML
# means to say.
_FTFY = ftfy.TextFixerConfig(
    unescape_html=False,
    uncurl_quotes=False,
    fix_character_width=False,
    fix_latin_ligatures=False,
    fix_line_breaks=False,
    normalization=None,
    explain=False,
)
_NEWLINES = re.compile("\r\n?")
# C0 but for tab, line feed and form feed; DEL, C1, byte order marks, and code points that are no
# characters.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ufeff\ufdd0-\ufdef"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0, 0x110000, 2**16))
    + "]"
)
_LATIN_RUN = re.compile("[\x80-\xff]+")
_HAN_RUN = re.compile("[\u0080-\U0010ffff]+")
_LEAST_HAN = 4  # Fewer characters that decode by chance are nothing to go by.
_COMMON_SHARE = 0.8
_MOST_ROUNDS = 4
_PROBE_CHARS = 200


def check(*, encoding: bool, controls: bool) -> None:
    """Raises UserError for settings that cannot be."""
    for name, value in (("encoding", encoding), ("controls", controls)):
        if not isinstance(value, bool):
            raise UserError(f"repair.{name}={value!r} must be True or False")


def repair(text: str, *, encoding: bool, controls: bool) -> str:
    r"""Mends a text; what is mended stays as it is when it is mended again.

    "cafÃ©" -> "café"; "ÖÐÎÄ±àÂë" -> "中文编码"; "a\r\nb\x00" -> "a\nb".

    Args:
      text: any.
      encoding: whether text that was decoded by the wrong encoding is decoded again: UTF-8 that was
        read as Latin-1 or Windows-1252 (by ftfy) or as GB18030, and GB18030 that was read as
        Latin-1 or Windows-1252, where what comes of it is common Chinese.
      controls: whether control characters are taken out, and lines made to end in a line feed.
    """
    for _ in range(_MOST_ROUNDS):  # Some text was spoilt twice.
        before = text
        if encoding and not text.isascii():  # First: of spoilt text, controls are a part.
            text = _from_gb18030(text) or _to_gb18030(text) or ftfy.fix_text(text, _FTFY)
        if controls:
            text = _CONTROLS.sub("", _NEWLINES.sub("\n", text))
        if text == before:
            break
    return text


def _from_gb18030(text: str) -> str | None:
    """Decodes GB18030 that was read as Latin-1; None where that is not what a text is."""
    runs = _LATIN_RUN.findall(text)
    # Characters of Chinese have two bytes, and no accent of Europe's comes in pairs alone.
    if not runs or any(len(run) % 2 for run in runs) or not _is_latin(text):
        return None
    try:
        decoded = text.encode("latin-1").decode("gb2312")
    except UnicodeDecodeError:
        return None
    return decoded if _is_common(decoded) else None


def _is_latin(text: str) -> bool:
    return max(text) <= "\xff"


def _to_gb18030(text: str) -> str | None:
    """Decodes UTF-8 that was read as GB18030; None where that is not what a text is."""
    try:  # The first part decides of nearly all text, which is no UTF-8 as GB18030.
        codecs.getincrementaldecoder("utf-8")().decode(text[:_PROBE_CHARS].encode("gb18030"))
        decoded = text.encode("gb18030").decode()
    except UnicodeError:
        return None
    return decoded if _is_common(decoded) else None


def _is_common(text: str) -> bool:
    """Whether most characters beyond ASCII are the 3,755 most used of GB 2312's first level."""
    others = "".join(_HAN_RUN.findall(text))
    marks = re.sub("[\u3000-\u303f\uff00-\uffef\u2010-\u203f\u00b7]", "", others)
    num_common = sum(_is_first_level(character) for character in marks)
    return num_common >= _LEAST_HAN and num_common >= _COMMON_SHARE * len(marks)


def _is_first_level(character: str) -> bool:
    try:
        return 0xB0 <= character.encode("gb2312")[0] <= 0xD7
    except UnicodeEncodeError:
        return False
