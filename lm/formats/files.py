"""Finds files of data by glob, unpacks, decodes and hashes them, and says what is damaged."""

import bz2
import codecs
import collections
import concurrent.futures
import functools
import glob
import gzip
import hashlib
import itertools
import lzma
import os
import pathlib
import re
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, NamedTuple, TypeVar

from backports import zstd

from lm.errors import UserError

T = TypeVar("T")
MAX_DOCUMENT_BYTES = 1_000_000_000  # Of a record or a file that is one document, unpacked.
SKIP = 'data.on_error="skip"'  # The remedy that many errors name.
STDIN = pathlib.Path("-")  # As a file: what `lines` reads for it is standard input.
_BLOCK_BYTES = 2**13  # Of what is unpacked with damaged bytes in one go, nothing is given.
_BOM = codecs.BOM_UTF8


class RestUnread(UserError):
    """A file cannot be read from some place on, so that nobody knows how much is lost."""


def find(split: str, spec: str | Sequence[str], *, key: str = "") -> list[pathlib.Path]:
    """Finds the files that globs match, each once: sorted within a glob, the globs in their order.

    Args:
      split: "train" or "validation", for errors.
      key: of the config, for errors; by default that of the split.
      spec: `data.train` or `data.validation`: a glob, several with commas between them, or a
        sequence of globs. A file of just that name is meant before its name is read as a glob.

    Raises:
      UserError: there is no glob, or one matches no file.
    """
    key = key or f"data.{split}"
    require("files", key, spec, "a glob, such as 'corpus/*.txt'")
    if isinstance(spec, str):
        globs = [spec] if _matches(spec) else [part.strip() for part in spec.split(",")]
    else:
        globs = list(spec)
    found: dict[pathlib.Path, None] = {}
    for each in filter(None, globs):
        if not (paths := _matches(each)):
            name = f"{key}={shown(each)!r}"
            if pathlib.Path(each).is_dir():
                raise UserError(f"{name} is a folder; name its files: {shown(each).rstrip('/')}/*")
            raise UserError(
                f"{name} matches no file from {pathlib.Path.cwd()}; mend the glob (two are A,B)"
            )
        found |= dict.fromkeys(paths)  # A dict keeps the order, which is that of the documents.
    if not found:
        raise UserError(f"{key}={spec!r} names no file; give a glob, such as 'corpus/*.txt'")
    return list(found)


def _matches(pattern: str) -> list[pathlib.Path]:
    if pathlib.Path(pattern).is_file():
        return [pathlib.Path(pattern)]
    paths = (pathlib.Path(name) for name in glob.glob(pattern, recursive=True))
    return sorted(path for path in paths if path.is_file())


def require(kind: str, key: str, value: str | Sequence[str], meaning: str) -> None:
    """Raises UserError if a key that a source needs is empty."""
    if not value:
        raise UserError(f"{key} is empty; a source of {kind} needs {meaning}")


def shown(path: str | pathlib.Path) -> str:
    r"""Makes a path printable and encodable: a byte of it that is no UTF-8 becomes \xNN."""
    return os.fsencode(path).decode(errors="backslashreplace")


PACKED: dict[str, Callable[..., IO[bytes]]] = {
    ".gz": gzip.open,
    ".zst": zstd.open,
    ".xz": lzma.open,
    ".bz2": bz2.open,
}
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)
_MAGIC = {  # Patterns of what such files begin with.
    rb"\x1f\x8b": ".gz",
    rb"\x28\xb5\x2f\xfd": ".zst",
    rb"\xfd7zXZ": ".xz",
    rb"BZh[1-9]1AY&SY": ".bz2",
}


def _blocks(path: pathlib.Path) -> Iterator[bytes]:
    """Yields a file's bytes, unpacked; a byte order mark is a block of its own.

    Raises:
      UserError: it is UTF-16 or UTF-32, or packed under the name of a plain file.
      DAMAGED: after all that can be read.
    """
    if path == STDIN and sys.stdin is None:  # So Python says that it was closed at the start.
        raise UserError("standard input is closed; name a file, or give it one")
    unpack = PACKED.get(path.suffix.lower(), open)
    with open(0, "rb", closefd=False) if path == STDIN else unpack(path, "rb") as file:
        # `read` would lose what it has unpacked when the next bytes are damaged.
        block = file.read1(_BLOCK_BYTES)
        if not block and isinstance(file, gzip.GzipFile) and not path.stat().st_size:
            raise EOFError("it has no byte, and even an empty archive has some")  # Others say so.
        while 0 < len(block) < len(_BOM) and (more := file.read1(_BLOCK_BYTES)):
            block += more  # A pipe may give a byte at a time, and so a part of the mark.
        _refuse_encoding(path, block)
        if block.startswith(_BOM):
            yield _BOM
            block = block.removeprefix(_BOM) or file.read1(_BLOCK_BYTES)
        while block:
            yield block
            block = file.read1(_BLOCK_BYTES)


def _refuse_encoding(path: pathlib.Path, head: bytes) -> None:
    """Raises UserError for a file that begins as a packed one, UTF-16 or UTF-32 does."""
    for magic, suffix in _MAGIC.items():
        if re.match(magic, head):
            raise UserError(f"{shown(path)}: is packed; give it a name that ends in {suffix}")
    marks = {
        "UTF-32": (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE),  # First: UTF-16's begins the former.
        "UTF-16": (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE),
    }
    found = next((name for name, starts in marks.items() if head.startswith(starts)), None)
    sample = head[:1024]
    if found is None and len(sample) >= 4 and 3 * sample.count(0) >= len(sample):
        # Without a mark it would pass as UTF-8 full of NUL: of 4 bytes of Latin text in UTF-32, 3
        # are 0, and 2 in UTF-16.
        found = "UTF-32" if 2 * sample.count(0) > 1.2 * len(sample) else "UTF-16"
    if found:
        raise UserError(
            f"{shown(path)}: is {found}, not UTF-8; convert it: iconv -f {found} -t UTF-8"
        )


class Line(NamedTuple):
    """A line of a file, counted from 1, with its end; `offset` is that of its first byte.

    Whoever reads it may change its `data`, so that a long line need not be held twice.
    """

    number: int
    offset: int
    data: bytearray


class NotUtf8(UserError):
    """Bytes are no text in UTF-8; `num_bytes` are those of a row of a table, 0 of others."""

    num_bytes = 0


class TooLong(UserError):
    """A document, record or line exceeds the limit."""


class LineTooLong(TooLong):
    """A line that exceeds the limit, of which a table must know the quotes and tabs.

    num_bytes: of the line without its end.
    """

    def __init__(self, name: str, max_bytes: int, counts: collections.Counter[bytes]):
        super().__init__(str(longer(name, max_bytes)))
        self.num_quotes, self.num_tabs = counts[b'"'], counts[b"\t"]
        self.num_bytes = counts[b""]


def lines(path: pathlib.Path, max_bytes: int) -> Iterator[Line | UserError]:
    """Yields the lines of a file, unpacked; they end in LF, CR LF or CR.

    Args:
      path: of the file.
      max_bytes: in place of a line that is longer stands the error.

    Raises:
      UserError: the file is no UTF-8 from its start.
      DAMAGED: after all lines that can be read.
    """
    number, offset, held = 1, 0, bytearray()
    counts: collections.Counter[bytes] | None = None  # Of a line that is too long.
    counted = lambda part: {b'"': part.count(b'"'), b"\t": part.count(b"\t"), b"": len(part)}
    for part in itertools.chain(_parts_of_lines(path), [b""]):  # b"" ends a last line without LF.
        offset += len(part)
        if offset == len(_BOM) and part == _BOM:
            continue
        if counts is not None:
            counts.update(counted(part))
        elif len(held) + len(part) > max_bytes:
            counts = collections.Counter(counted(held + part))
            held = bytearray()  # Let go of at once: no more than max_bytes are ever held.
        else:
            held += part
        if part and not part.endswith((b"\n", b"\r")):
            continue
        if counts is not None:
            counts[b""] -= len(part) - len(part.rstrip(b"\r\n"))
            yield LineTooLong(f"{shown(path)}:{number}", max_bytes, counts)
            counts = None
        elif held:
            found = [Line(number, offset - len(held), held)]
            held = bytearray()
            yield found.pop()  # Not by a name, which would hold the line while it is read.
        number += 1


def _parts_of_lines(path: pathlib.Path) -> Iterator[bytes]:
    """Yields lines, those that the end of a block cuts in several parts; none cuts a CR LF."""
    before = b""
    for block in _blocks(path):
        parts = (before + block).splitlines(keepends=True)
        before = b""
        if parts[-1].endswith(b"\r"):  # A LF may follow.
            before = parts.pop()
        yield from parts
    if before:
        yield before


class TextLine(NamedTuple):
    """A line without its end."""

    number: int
    text: str


def text_lines(path: pathlib.Path, max_bytes: int) -> Iterator[TextLine | UserError]:
    """Yields a file's lines as text; in place of one that is no UTF-8 or too long, the error."""
    # Not by a loop, whose variable would hold the bytes for as long as the text is used.
    return map(functools.partial(_text_line, path), lines(path, max_bytes))


def _text_line(path: pathlib.Path, line: Line | UserError) -> TextLine | UserError:
    if isinstance(line, UserError):
        return line
    while line.data.endswith((b"\n", b"\r")):
        del line.data[-1:]
    try:
        return TextLine(line.number, line.data.decode())
    except UnicodeDecodeError as error:
        name = f"{shown(path)}:{line.number}"
        return not_utf8(name, line.data, error, line.offset + error.start)


def decoded(path: pathlib.Path, max_bytes: int) -> Iterator[str]:
    """Yields the text of a file, unpacked, in blocks.

    Raises:
      UserError: it is no UTF-8, or has more than `max_bytes`.
      DAMAGED: it cannot be unpacked or read.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = 0
    for block in itertools.chain(_blocks(path), [b""]):  # At b"", half a character is an error.
        if size == 0 and block == _BOM:
            size = len(_BOM)
            continue
        pending = len(decoder.getstate()[0])  # Bytes of a character that the last block cut.
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            raise not_utf8(shown(path), error.object, error, size - pending + error.start) from None
        size += len(block)
        if size > max_bytes:
            raise longer(shown(path), max_bytes)
        if text:
            yield text


def hash_files(paths: Iterable[pathlib.Path], root: pathlib.Path | None = None) -> str:
    """Returns SHA-256 of the names (from `root` on, if given) and bytes of files, in threads."""

    def entry(path: pathlib.Path) -> bytes:
        with path.open("rb") as file:
            # A mark is no text any more, so what was prepared when it was is other data.
            mark = b"\0mark" if file.read(len(_BOM)) == _BOM else b""
            file.seek(0)
            contents = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(root) if root else path
        return os.fsencode(name.as_posix()) + f"\0{contents}".encode() + mark + b"\n"

    total = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for line in pool.map(entry, paths):  # In the order of paths, whichever is hashed first.
            total.update(line)
    return total.hexdigest()


def hash_together(paths: Iterable[pathlib.Path]) -> str:
    """Hashes files that make up one data set, wherever it lies; see `hash_files`."""
    paths = list(paths)
    root = os.path.commonpath([path.parent for path in paths])
    return hash_files(paths, pathlib.Path(root))


def not_utf8(name: str, data: bytes | bytearray, error: UnicodeDecodeError, offset: int) -> NotUtf8:
    """Makes the error for bytes that are no text; `offset` is in the file."""
    return NotUtf8(
        f"{name}: byte 0x{data[error.start]:02x} at offset {offset} is not UTF-8 ({error.reason}); "
        f"convert the file, or set {SKIP}"
    )


def longer(name: str, max_bytes: int) -> TooLong:
    """Makes the error for a document or record that exceeds the limit."""
    return TooLong(
        f"{name}: is longer than data.max_document_bytes={max_bytes:,}; raise that, or set {SKIP}"
    )


_HALF = re.compile("[\ud800-\udfff]")


def half_character(name: str, text: str) -> UserError | None:
    """Returns an error if a text has half a surrogate pair, as JSON can spell and UTF-8 cannot."""
    if text.isascii() or not (found := _HALF.search(text)):  # `isascii` is O(1): most need no more.
        return None
    return UserError(
        f"{name}: character {found.start()} is half a surrogate pair, not Unicode text; mend it, "
        f"or set {SKIP}"
    )


def unreadable(path: pathlib.Path, error: Exception, num_read: int | None = None) -> UserError:
    """Makes the error for a file that raised one of DAMAGED, after `num_read` records, if any."""
    reason = str(error) or type(error).__name__
    if num_read is None:
        return UserError(f"{shown(path)}: cannot be read ({reason}); mend it, or set {SKIP}")
    behind = f" behind its first {num_read:,} records" if num_read else ""
    return RestUnread(
        f"{shown(path)}: cannot be read{behind} ({reason}); mend it, or set {SKIP} to go without "
        "the rest, of which nobody knows how much it is"
    )


def without_skip(error: UserError) -> UserError:
    """Takes the remedy SKIP out of an error, for whoever has no such key.

    'a.txt: is damaged; mend it, or set data.on_error="skip"' -> "a.txt: is damaged; mend it"
    """
    return UserError(str(error).partition(f", or set {SKIP}")[0])


def raise_of_machine(error: Exception) -> None:
    """Raises one of DAMAGED that is no damage of a file, but a fault such as no permission."""
    if isinstance(error, OSError) and error.errno is not None:
        raise error


def without_errors(
    items: Iterable[T | UserError], on_error: str, skipped: list[UserError]
) -> Iterator[T]:
    """Yields what could be read.

    Args:
      items: with the UserError of each that could not, in its place.
      on_error: "raise" raises the first error; "skip" appends errors to `skipped` and goes on.
      skipped: grows by one for each item that is left out.
    """
    for item in items:
        if not isinstance(item, UserError):
            yield item
        elif on_error == "raise":
            raise item
        else:
            skipped.append(item)
