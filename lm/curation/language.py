"""Text -> its language, and which languages its parts are in, by Compact Language Detector 2.

The detector comes with its tables: nothing is downloaded. It says nothing of digits, addresses and
single words rather than to guess, which becomes "und", as in BCP 47.
"""

import ctypes
import functools
import re
import sys
from collections import Counter
from typing import NamedTuple

import pycld2

UNKNOWN = "und"
# Of the bytes whose language is known, the share of one language below which a text is mixed.
_PURE = 0.8
# What the detector takes for an error, replaced one by one so that no place is moved.
_REFUSED = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(
        f"{chr(plane * 0x10000 + 0xFFFE)}-{chr(plane * 0x10000 + 0xFFFF)}" for plane in range(17)
    )
    + "]"
)
# Codes that ISO 639 withdrew.
_RENAMED = {"iw": "he", "jw": "jv", "mo": "ro"}
_KANA = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9f]")


class Span(NamedTuple):
    """Characters from `start` to `end`, exclusive, and their language."""

    start: int
    end: int
    language: str


class Languages(NamedTuple):
    """What a text is written in.

    language: code of ISO 639 of the whole, or "und".
    script: of Chinese: "Hans", "Hant", or "" where no character tells them apart; "" otherwise.
    shares: language -> its share of the text's UTF-8 bytes; they add up to 1.
    spans: parts one after the other, from the first character to the last.
    """

    language: str
    script: str
    shares: dict[str, float]
    spans: tuple[Span, ...]

    @property
    def is_mixed(self) -> bool:
        """Whether less than four fifths of what has a language are in a single one."""
        known = [share for language, share in self.shares.items() if language != UNKNOWN]
        return bool(known) and max(known) < _PURE * sum(known)


def detect(text: str) -> Languages:
    """Text -> its languages; never raises.

    "你好，世界。今天天气很好。" -> Languages("zh", "Hans", {"zh": 1.0}, (Span(0, 13, "zh"),))
    """
    if not text:
        return Languages(UNKNOWN, "", {UNKNOWN: 1.0}, ())
    data = _REFUSED.sub(" ", text).encode()
    _, _, verdicts, vectors = pycld2.detect(data, isPlainText=True, returnVectors=True)
    if vectors and _keeps_vectors():
        ctypes.pythonapi.Py_DecRef(ctypes.py_object(vectors))
    has_kana = _KANA.search(text) is not None
    language = _code(verdicts[0][1], has_kana)
    parts = [(start, start + length, _code(code, has_kana)) for start, length, _, code in vectors]
    if language not in {part[2] for part in parts}:  # Too short for parts of its own.
        parts = [(0, len(data), language)]
    spans, num_bytes = _spans(data, parts)
    shares = {code: count / len(data) for code, count in num_bytes.most_common()}
    return Languages(language, chinese_script(text) if language == "zh" else "", shares, spans)


@functools.cache
def _keeps_vectors() -> bool:
    """Whether the detector counts itself as a holder of the vectors that it returns.

    Then nobody frees them (pycld2 0.42): 13 to 20 % of the bytes of texts of 3 kB.
    """
    _, _, verdicts, vectors = pycld2.detect(b"The river was calm that year. ", returnVectors=True)
    return bool(vectors) and sys.getrefcount(vectors) == sys.getrefcount(verdicts) + 1


def chinese_script(text: str) -> str:
    """Whether Chinese text is Simplified ("Hans") or Traditional ("Hant"); "" when nothing tells.

    By the characters of which only one of the two standards knows, GB 2312 and Big5:
    "汉语" -> "Hans", "漢語" -> "Hant", "中文" -> "".
    """
    simplified, traditional = _scripts()
    counts = len(simplified.findall(text)), len(traditional.findall(text))
    return "" if counts[0] == counts[1] else "Hans" if counts[0] > counts[1] else "Hant"


@functools.cache
def _scripts():
    """What finds the characters of Simplified Chinese alone, and of Traditional Chinese alone."""
    han = "".join(map(chr, range(0x4E00, 0xA000)))
    simplified, traditional = (
        set(han.encode(name, "ignore").decode(name)) for name in ("gb2312", "big5")
    )
    return (
        re.compile(f"[{''.join(sorted(simplified - traditional))}]"),
        re.compile(f"[{''.join(sorted(traditional - simplified))}]"),
    )


def _code(code, has_kana):
    """The detector's code -> ISO 639; its scripts without a language and its jokes are unknown."""
    code = code.partition("-")[0]
    if code == "un" or code.startswith(("xx", "zz")):
        return UNKNOWN
    if (
        code == "ja" and not has_kana
    ):  # As it says of Chinese headlines; Japanese cannot do without.
        return "zh"
    return _RENAMED.get(code, code)


# All that `detect` may say.
LANGUAGES = frozenset(_code(code, has_kana=True) for _, code in pycld2.LANGUAGES) | {UNKNOWN}


def _spans(data, parts):
    """Parts of bytes -> spans of characters, neighbours joined; bytes a language."""
    spans, place, num_bytes = [], 0, Counter()
    for start, end, language in parts:
        num_bytes[language] += end - start
        until = place + len(data[start:end].decode())
        if spans and spans[-1].language == language:
            spans[-1] = spans[-1]._replace(end=until)
        else:
            spans.append(Span(place, until, language))
        place = until
    return tuple(spans), num_bytes
