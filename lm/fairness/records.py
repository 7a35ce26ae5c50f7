"""Reads the records of published sets, each of which must hold what is asked of it."""

import pathlib

from lm.errors import UserError
from lm.formats import files, formats
from lm.formats.fields import Record, kind_of, names_of

_BOM = "\ufeff"  # CBBQ's keys begin with it.


def records_of(spec: str, what: str) -> list[Record]:
    """Reads the records of the files of a glob.

    Args:
      spec: the glob, which `data` of the config names.
      what: a record is called, in an error.

    Raises:
      UserError: a file that cannot be read, by its line, or no record.
    """
    if not spec:
        raise UserError(f"data is not set; name files, a {what} a record: --config.data=FILES")
    found: list[Record] = []
    for path in files.find("", spec, key="data"):
        try:
            items = formats.read(path, files.MAX_DOCUMENT_BYTES, formats.reader_of(path))
            found += files.without_errors(items, "raise", [])
        except UserError as error:
            raise files.without_skip(error) from None
    if not found:
        raise UserError(f"data={spec!r} holds no {what}; give it some")
    plain = lambda fields: {key.removeprefix(_BOM): value for key, value in fields.items()}
    return [Record(record.name, plain(record.fields)) for record in found]


def lines_of(path: pathlib.Path) -> list[Record]:
    """Reads the lines of a file that are not empty, each as the field "text".

    Raises:
      UserError: it cannot be read, by its line.
    """
    lines = files.without_errors(formats.read(path, 10**9, files.text_lines), "raise", [])
    name = lambda line: f"{files.shown(path)}:{line.number}"
    return [Record(name(line), {"text": line.text}) for line in lines if line.text.strip()]


def text_of(record: Record, key: str) -> str:
    """Returns a field that must hold text, without white space around it.

    Raises:
      UserError: it is missing, no text, or empty.
    """
    value = record.fields.get(key)
    if not isinstance(value, str):
        found = f"is {kind_of(value)}" if key in record.fields else "is missing"
        there = names_of(record.fields)
        raise UserError(f"{record.name}: the field {key!r} {found}; there are {there}")
    if not (text := value.strip()):
        raise UserError(f"{record.name}: the field {key!r} is empty; mend it")
    return text
