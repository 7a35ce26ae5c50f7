"""The main text of a page of HTML, whatever its encoding."""

import codecs
import re
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from lm.curation import encodings
from lm.errors import UserError
from lm.system.bounded import BoundedFunction, Exceeded

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # Before UTF-16, whose mark it begins with.
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.-]{2,40})", re.I)
_CONTROL = re.compile(rb"[\0-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")  # ESC begins those of ISO 2022.
_LEAST_CONTROLS = 1 / 16  # Of the bytes of UTF-16; others may have some astray.
# Of the characters of a page, how many may be bytes that its encoding does not know.
_MOST_UNKNOWN = 0.001
# As browsers do: pages that declare GB 2312 or GBK hold characters of its successor, and so on.
_WIDER = {
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "big5": "big5hkscs",
    "shift_jis": "cp932",
    "euc_kr": "cp949",
    "tis-620": "cp874",
    "iso8859-11": "cp874",
}
# Names that Python knows of what no page is in, as where a script wrote its `undefined`; and UTF-7,
# which can spell half a surrogate.
_OF_NO_PAGES = {"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape", "utf-7"}
_ASCII = b"<meta charset>"  # EBCDIC, too, is no encoding of pages.


class Limits(NamedTuple):
    """What the main text of one page may take: seconds of processor time, and bytes of memory."""

    max_seconds: float
    max_memory_bytes: int


def make_limits(*, max_seconds: float, max_memory_bytes: int) -> Limits:
    """Checks the numbers; raises UserError where nothing could be read within them."""
    if not max_seconds > 0:
        raise UserError(f"extract.max_seconds={max_seconds} must be above 0")
    if max_memory_bytes < 2**28:
        raise UserError(f"extract.max_memory_bytes={max_memory_bytes} must be at least 2^28")
    return Limits(max_seconds, max_memory_bytes)


class Page(NamedTuple):
    """The text of a page, or the reason why there is none."""

    text: str = ""
    reason: str = ""


def decode(data: bytes, charset: str = "") -> Page:
    """Decodes a page.

    The encoding is that of its mark; or the first in which all bytes have a meaning: the charset of
    the HTTP header, that of its `meta` element, UTF-8; or that in which its bytes are the likeliest
    text, where nearly all must have a meaning.
    """
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return _nearly(data[len(mark) :], encoding)
    head = data[:4096]
    meta = _META_CHARSET.search(head)
    named = [_python_name(charset), _python_name(meta[1].decode("ascii") if meta else "")]
    escaped = ["iso2022_jp"] if b"\x1b$" in data else []
    # What declares ASCII or Latin-1 may well be UTF-8, which no other text is by chance.
    tried = sorted([*named, *escaped, "utf-8"], key=lambda name: name == "cp1252")
    # Many control characters are halves of UTF-16; what can be read as ASCII is none.
    is_wide = _LEAST_CONTROLS * len(head) < len(_CONTROL.findall(head))
    for encoding in [] if is_wide else tried:
        try:
            if encoding and _ASCII.decode(encoding) == _ASCII.decode():
                return Page(data.decode(encoding))
        except UnicodeError:
            continue
    hints = [*named, _python_name(detect_encoding(data))]
    try:
        return _nearly(data, encodings.guess(data, *hints))
    except encodings.Doubtful:
        return Page(reason="doubtful_encoding")


def _nearly(data: bytes, encoding: str) -> Page:
    text = data.decode(encoding, errors="replace")
    is_text = text.count("\ufffd") <= _MOST_UNKNOWN * len(text)
    return Page(text) if is_text else Page(reason="unknown_encoding")


def _python_name(name: str) -> str:
    """Gives Python's name of an encoding of text; "" where there is none."""
    try:
        codec = codecs.lookup(map_encoding_to_html5(name, fallback_utf8=False) or name.strip())
    except (LookupError, ValueError):
        return ""
    if not codec._is_text_encoding or codec.name in _OF_NO_PAGES:
        return ""
    return _WIDER.get(codec.name, codec.name)


def main_text(data: bytes, charset: str = "") -> Page:
    """Bytes of HTML -> the main text: without menus, links' targets and readers' comments."""
    if data[:1024].lstrip().startswith(b"%PDF"):
        return Page(reason="no_html")
    page = decode(data, charset)
    if page.reason:
        return page
    text = extract_plain_text(
        _with_lists_deep(HTMLTree.parse(page.text)),
        preserve_formatting=True,
        main_content=True,
        links=False,
        comments=False,
        alt_texts=False,
    ).strip()
    return Page(text) if text else Page(reason="no_main_text")


# Lists with fewer than three elements above them, which resiliparse takes for menus, whatever they
# hold; deeper ones only where they are mostly links.
_LISTS_NEAR_THE_ROOT = "body > ul, body > * > ul, body > * > * > ul"


def _with_lists_deep(tree: HTMLTree) -> HTMLTree:
    for ul in tree.body.query_selector_all(_LISTS_NEAR_THE_ROOT) if tree.body else ():
        outer, middle, inner = (tree.create_element("div") for _ in range(3))
        ul.parent.replace_child(outer, ul)
        outer.append_child(middle).append_child(inner).append_child(ul)
    return tree


class Extractor:
    """Takes main texts out of pages in a process of its own, within limits."""

    def __init__(self, limits: Limits):
        self._main_text = BoundedFunction(main_text, **limits._asdict())

    def __call__(self, data: bytes, charset: str = "") -> Page:
        """See `main_text`; a page that takes too much has no text."""
        try:
            return self._main_text(data, charset)
        except Exceeded as error:
            return Page(reason=f"html_exceeds_{error.what}")

    def close(self) -> None:
        """Ends the process."""
        self._main_text.close()
