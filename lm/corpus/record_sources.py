"""Sources of records: files of many formats, and data sets that a library knows by name."""

import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from lm.errors import UserError
from lm.formats import files as files_lib
from lm.formats import formats
from lm.formats.fields import Record


class RecordSource(NamedTuple):
    """One split of records, with the same promises as `sources.Source`.

    features: what a data set says of its fields, such as the names of classes; None for files.
    """

    records: Callable[[], Iterable[Record | UserError]]
    fingerprint: Callable[[], str]
    features: Any = None


def open_files(
    split: str,
    spec: str | Sequence[str],
    max_bytes: int,
    reader_of: Callable[[pathlib.Path], formats.ReadFn] = formats.reader_of,
) -> RecordSource:
    """Finds files by glob, whose records are read one file after the other.

    Raises:
      UserError: no file is there, or `reader_of` does not know the format of one.
    """
    readers = {path: reader_of(path) for path in files_lib.find(split, spec)}
    each = lambda: (formats.read(path, max_bytes, reader) for path, reader in readers.items())
    return RecordSource(
        lambda: itertools.chain.from_iterable(each()), lambda: files_lib.hash_files(readers)
    )


def open_tfds(argument: str, split: str, spec: str) -> RecordSource:
    """Opens a TFDS data set; its text is bytes, its classes are numbers.

    Raises:
      UserError: there is no such data set or split.
    """
    import tensorflow_datasets as tfds

    files_lib.require("tfds", "data.source", argument, "a name, as in 'tfds:wiki40b/en'")
    files_lib.require("tfds", f"data.{split}", spec, "a split, such as 'train[:90%]'")
    try:
        builder = tfds.builder(argument, file_format="array_record")  # Has random access.
        builder.download_and_prepare()
        records = builder.as_data_source(split=spec)
    except (ValueError, OSError) as error:
        reason = str(error).strip().splitlines()[0]  # TFDS goes on with all names that it knows.
        raise UserError(f"data.source='tfds:{argument}', data.{split}={spec!r}: {reason}") from None
    paths = builder.info.splits[spec].filepaths
    return _by_name(f"tfds:{argument}[{spec}]", records, paths, records.dataset_info.features)


def open_hugging_face(argument: str, split: str, spec: str, field: str = "") -> RecordSource:
    """Opens a Hugging Face data set; its classes are numbers.

    Args:
      argument: a name, name:config, or a folder.
      split: "train" or "validation", for errors.
      spec: a split of the data set, or a slice of one.
      field: if it names a column, or what is inside of one, only that column is read; others may
        hold pictures or sound, which needs time and packages to decode.

    Raises:
      UserError: there is no such data set or split, or `datasets` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"data.source='hf:{argument}' needs the datasets library; run: pip install datasets"
        ) from None

    files_lib.require("hf", "data.source", argument, "a name, as in 'hf:owner/name', or a folder")
    files_lib.require("hf", f"data.{split}", spec, "a split, such as 'train[:90%]'")
    try:
        marks = [pathlib.Path(argument, name) for name in ("dataset_dict.json", "state.json")]
        if any(mark.is_file() for mark in marks):  # `load_dataset` would read its JSON as data.
            records = _part_of_saved(datasets.load_from_disk(argument), spec)
        else:
            name, _, config = argument.partition(":")
            records = datasets.load_dataset(name, config or None, split=spec)
    except (
        ValueError,
        KeyError,
        OSError,
        AssertionError,
        RuntimeError,
        datasets.exceptions.DatasetsError,
    ) as error:
        cause = error.__cause__ or error  # That a data set cannot be made says not why.
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise UserError(f"data.source='hf:{argument}', data.{split}={spec!r}: {reason}") from None
    if field:
        column = field if field in records.column_names else field.partition(".")[0]
        is_there = column in records.column_names
        records = records.select_columns([column]) if is_there else records
    paths = [file["filename"] for file in records.cache_files]
    return _by_name(f"hf:{argument}[{spec}]", records, paths, records.features)


def _by_name(
    name: str, items: Iterable[dict[str, Any]], paths: Iterable[str | os.PathLike], features: Any
) -> RecordSource:
    return RecordSource(
        lambda: (Record(f"{name}:{i}", item) for i, item in enumerate(items)),
        lambda: files_lib.hash_together(map(pathlib.Path, paths)),
        features,
    )


def _part_of_saved(saved: Any, spec: str) -> Any:
    """Slices what `load_from_disk` gave as `load_dataset` would: "train[:90%]".

    Raises:
      ValueError: there is no such split; one that was saved without its name is called train.
    """
    import datasets

    if not isinstance(saved, dict):
        saved = {str(saved.split or "train"): saved}
    try:
        parts = datasets.ReadInstruction.from_spec(spec).to_absolute(
            {name: len(records) for name, records in saved.items()}
        )
    except (ValueError, AssertionError):
        raise ValueError(
            f"there are the splits {', '.join(saved)}, and slices of them, as {next(iter(saved))}"
            "[:90%]"
        ) from None
    found = [saved[part.splitname].select(range(part.from_, part.to)) for part in parts]
    return found[0] if len(found) == 1 else datasets.concatenate_datasets(found)
