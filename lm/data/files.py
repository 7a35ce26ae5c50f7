"""Files of data: found by glob, unpacked, hashed, and what is said of damaged ones."""

import concurrent.futures
import glob
import gzip
import hashlib
import lzma
import pathlib
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TypeVar

from backports import zstd

from lm.errors import UserError

T = TypeVar("T")


def find(split: str, spec: str) -> list[pathlib.Path]:
    """The files that a glob matches, sorted.

    Args:
      split: "train" or "validation", for errors.
      spec: `data.train` or `data.validation`.

    Raises:
      UserError: the glob is empty, or matches no file.
    """
    require("files", f"data.{split}", spec, "a glob, such as 'corpus/*.txt'")
    paths = sorted(pathlib.Path(name) for name in glob.glob(spec, recursive=True))
    paths = [path for path in paths if path.is_file()]
    if not paths:
        raise UserError(
            f"data.{split}={spec!r} matches no file from {pathlib.Path.cwd()}; mend the glob"
        )
    return paths


def require(kind: str, key: str, value: str, meaning: str) -> None:
    """Raises UserError if a key that a source needs is empty."""
    if not value:
        raise UserError(f"{key} is empty; a source of {kind} needs {meaning}")


PACKED: dict[str, Callable[..., IO[bytes]]] = {
    ".gz": gzip.open,
    ".zst": zstd.open,
    ".xz": lzma.open,
}
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError)


def lines(path: pathlib.Path) -> Iterator[bytes]:
    """The lines of a file, unpacked."""
    with PACKED.get(path.suffix, open)(path, "rb") as file:
        yield from file


def hash_files(paths: Iterable[pathlib.Path], root: pathlib.Path | None = None) -> str:
    """SHA-256 over the names (from `root` on, if given) and the bytes of files, read in threads."""

    def one(path: pathlib.Path) -> bytes:
        with path.open("rb") as file:
            contents = hashlib.file_digest(file, "sha256").hexdigest()
        name = path.relative_to(root) if root else path
        return f"{name.as_posix()}\0{contents}\n".encode()

    total = hashlib.sha256()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        for line in pool.map(one, paths):
            total.update(line)
    return total.hexdigest()


def not_utf8(name: str, data: bytes, error: UnicodeDecodeError, offset: int) -> UserError:
    """What is said of bytes that are no text; `offset` is in the file."""
    return UserError(
        f"{name}: byte 0x{data[error.start]:02x} at offset {offset} is not UTF-8 ({error.reason}); "
        'convert the file, or set data.on_error="skip"'
    )


def unreadable(path: pathlib.Path, error: Exception) -> UserError:
    """What is said of a file that one of DAMAGED came from."""
    reason = str(error) or type(error).__name__
    return UserError(f'{path}: cannot be read ({reason}); mend it, or set data.on_error="skip"')


def without_errors(
    items: Iterable[T | UserError], on_error: str, skipped: list[UserError]
) -> Iterator[T]:
    """What could be read.

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
