"""The main text of a page of HTML, whatever its encoding."""

import codecs
import re
from typing import NamedTuple

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5
from resiliparse.parse.html import HTMLTree

from lm.errors import UserError
from lm.system.bounded import BoundedFunction, Exceeded

_BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_META_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([\w:.-]{2,40})", re.I)
# Of the characters of a page, how many may be bytes that its encoding does not know.
_MOST_UNKNOWN = 0.001
# As browsers do: pages that declare GB 2312 or GBK hold characters of its successor.
_WIDER = {"gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030", "big5": "big5hkscs"}


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


def decode(data: bytes, charset: str = "") -> str | None:
    """Decodes a page; None where no encoding fits.

    The encoding is that of its mark; or the first in which all bytes have a meaning: the charset of
    the HTTP header, that of its `meta` element, UTF-8, and what its bytes look like; or the first
    in which nearly all have.
    """
    for mark, encoding in _BOMS.items():
        if data.startswith(mark):
            return _nearly(data[len(mark) :], encoding)
    meta = _META_CHARSET.search(data[:4096])
    named = [charset, meta[1].decode("ascii") if meta else "", "utf-8", detect_encoding(data)]
    encodings = [_python_name(name) for name in named if name]
    for encoding in encodings:
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    found = (_nearly(data, encoding) for encoding in encodings)
    return next((text for text in found if text is not None), None)


def _nearly(data: bytes, encoding: str) -> str | None:
    text = data.decode(encoding, errors="replace")
    return text if text.count("\ufffd") <= _MOST_UNKNOWN * len(text) else None


def _python_name(name: str) -> str:
    name = name.strip().lower()
    name = _WIDER.get(name, name)
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        name = map_encoding_to_html5(name) or "utf-8"
        return _WIDER.get(name.lower(), name)
    return codec.name if codec._is_text_encoding else "utf-8"


class Page(NamedTuple):
    """The main text of a page, or the reason why there is none."""

    text: str = ""
    reason: str = ""


def main_text(data: bytes, charset: str = "") -> Page:
    """Bytes of HTML -> the main text: without menus, links' targets and readers' comments."""
    if data[:1024].lstrip().startswith(b"%PDF"):
        return Page(reason="no_html")
    html = decode(data, charset)
    if html is None:
        return Page(reason="unknown_encoding")
    text = extract_plain_text(
        _with_lists_deep(HTMLTree.parse(html)),
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
