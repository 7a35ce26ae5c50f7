"""Web archives (WARC and WET, ISO 28500) and pages of HTML -> documents.

Records are cut here, so that every byte of a file belongs to one of them or is said to be lost:
libraries read an archive that was cut short without an error.
"""

import functools
import io
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

from fastwarc.warc import ArchiveIterator

from lm.curation import web_text
from lm.curation.records import Found, Lost
from lm.formats import files

_BLOCK_BYTES = 2**16
_MOST_HEADER_BYTES = 2**16
_START = re.compile(rb"WARC/\d\.\d\r?\n")
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d{1,15})[ \t]*\r?$", re.I | re.M)
_URI = re.compile(rb"^warc-target-uri:[ \t]*<?([^\r\n>]*)", re.I | re.M)
_OTHER_KINDS = ("warcinfo", "request", "metadata", "revisit", "continuation")


def html(path: pathlib.Path, *, max_bytes: int, limits: web_text.Limits) -> Iterator[Found | Lost]:
    """Reads a file of HTML: its main text is a document."""
    place, size = files.shown(path), path.stat().st_size
    try:
        with files.PACKED.get(path.suffix.lower(), open)(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        yield Lost(place, "damaged_file", size)
        return
    yield Lost(place, "too_long", size) if len(data) > max_bytes else _page(place, data, "", limits)


def _page(place: str, data: bytes, charset: str, limits: web_text.Limits) -> Found | Lost:
    page = _extractor(limits)(data, charset)
    return Found(page.text, place) if page.text else Lost(place, page.reason, len(data))


@functools.cache
def _extractor(limits: web_text.Limits) -> web_text.Extractor:
    return web_text.Extractor(limits)  # One for the process, which it does not outlive.


def archive(
    path: pathlib.Path, *, max_bytes: int, limits: web_text.Limits
) -> Iterator[Found | Lost]:
    """Reads an archive: a document a page, or a text of WET.

    Records of other kinds, such as requests, are counted as lost under the name of their kind.
    """
    name = files.shown(path)
    for item in _records(path, max_bytes):
        if isinstance(item, Lost):
            yield item
        else:
            uri = _URI.search(item.data[: item.header_bytes])
            place = f"{name}@{item.offset}"
            if uri:
                place += f" {uri[1].decode(errors='backslashreplace')}"
            yield _document(place, item.data, max_bytes, limits)


class _Record(NamedTuple):
    """A record with its header; `offset` is that in the file, unpacked."""

    offset: int
    header_bytes: int
    data: bytes


def _document(place: str, data: bytes, max_bytes: int, limits: web_text.Limits) -> Found | Lost:
    lost = functools.partial(Lost, place, num_bytes=len(data))
    try:
        record = next(iter(ArchiveIterator(io.BytesIO(data), auto_decode="all")), None)
        if record is None:
            return lost("malformed_record")
        kind = record.headers.get("WARC-Type", "").lower()
        if kind not in ("response", "resource", "conversion"):
            return lost(f"warc_{kind}" if kind in _OTHER_KINDS else "malformed_record")
        if record.is_http and record.http_headers.status_code != 200:
            return lost("http_status")
        content_type = (
            record.http_content_type if record.is_http else record.headers.get("Content-Type")
        )
        charset = record.http_charset if record.is_http else ""
        body = record.reader.read(max_bytes + 1)  # A little may be packed that is a lot.
    except (OSError, ValueError):  # What fastwarc raises for what it cannot parse or unpack.
        return lost("malformed_record")
    content_type = (content_type or "").partition(";")[0].strip().lower()
    is_html = content_type in ("text/html", "application/xhtml+xml")
    if not is_html and content_type != "text/plain":
        return lost("no_html")
    if len(body) > max_bytes:
        return lost("too_long")
    if is_html:
        page = _page(place, body, charset or "", limits)
        return page if isinstance(page, Found) else lost(page.reason)
    page = web_text.decode(body, charset or "")
    return lost(page.reason) if page.reason else Found(page.text, place)


def _records(path: pathlib.Path, max_bytes: int) -> Iterator[_Record | Lost]:
    """Cuts an archive into records; what is none is lost under a name, with its bytes."""
    name, window = files.shown(path), None
    try:
        with files.PACKED.get(path.suffix.lower(), open)(path, "rb") as file:
            window = _Window(file)
            yield from _cut(name, window, max_bytes)
    except files.DAMAGED as error:
        files.raise_of_machine(error)
        at = window.offset if window else 0
        held = len(window.held) if window else 0
        yield Lost(f"{name}@{at}", "rest_of_file", held)


class _Window:
    """What is read of a file and not yet used; `offset` is that of its first byte."""

    def __init__(self, file) -> None:
        self._file, self.offset, self.held = file, 0, b""

    def fill(self, size: int) -> bool:
        """Reads until `size` bytes are held; whether so many are there."""
        parts, missing = [self.held], size - len(self.held)
        try:
            while missing > 0 and (part := self._file.read1(max(_BLOCK_BYTES, missing))):
                parts.append(part)
                missing -= len(part)
        finally:
            self.held = b"".join(parts)
        return missing <= 0

    def take(self, size: int) -> bytes:
        data, self.held = self.held[:size], self.held[size:]
        self.offset += len(data)
        return data

    def skip(self, size: int) -> int:
        """Skips so many bytes, a block at a time; gives how many were there."""
        skipped = 0
        while skipped < size and (self.held or self.fill(1)):
            skipped += len(self.take(min(size - skipped, len(self.held))))
        return skipped


def _cut(name: str, window: _Window, max_bytes: int) -> Iterator[_Record | Lost]:
    while window.fill(1):
        start = window.offset
        place = f"{name}@{start}"
        window.fill(_MOST_HEADER_BYTES)
        end = re.search(rb"\r?\n\r?\n", window.held[:_MOST_HEADER_BYTES])
        length = _LENGTH.search(window.held, 0, end.end()) if end else None
        is_start = _START.match(window.held) is not None
        if not is_start or length is None:
            is_cut = is_start and not end and len(window.held) < _MOST_HEADER_BYTES
            yield Lost(place, "cut_record" if is_cut else "no_warc_record", _to_next(window))
            continue
        header_bytes, content_bytes = end.end(), int(length[1])
        if content_bytes > max_bytes:
            there = window.skip(header_bytes + content_bytes)
            is_whole = there == header_bytes + content_bytes
            yield Lost(place, "too_long" if is_whole else "cut_record", there)
        elif not window.fill(header_bytes + content_bytes):
            yield Lost(place, "cut_record", window.skip(header_bytes + content_bytes))
            continue
        else:
            data = window.take(header_bytes + content_bytes)
            window.fill(4)
            if not re.match(
                rb"\r?\n|$", window.held[:4]
            ):  # Its length was wrong, and nobody knows where its content ends.
                yield Lost(place, "wrong_content_length", len(data) + _to_next(window))
                continue
            yield _Record(start, header_bytes, data)
        window.fill(4)
        window.take(len(re.match(rb"(\r?\n){0,2}", window.held[:4])[0]))


def _to_next(window: _Window) -> int:
    """Skips to where a record begins again; gives the number of bytes."""
    skipped = 0
    first = 1  # A record that begins here is the one that is wrong.
    while True:
        found = _START.search(window.held, first)
        if found:
            return skipped + len(window.take(found.start()))
        # The mark of a record may lie across the end of what is held.
        kept = 16
        skipped += len(window.take(max(0, len(window.held) - kept)))
        first = 0
        if not window.fill(len(window.held) + 1):
            return skipped + len(window.take(len(window.held)))
