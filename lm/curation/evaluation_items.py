"""Items of evaluations, read from files and from tasks of lm_eval."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from lm.curation.decontamination import Item
from lm.errors import UserError
from lm.formats import fields as fields_lib
from lm.formats import files as files_lib
from lm.formats import formats


def read(
    *,
    files: str | Sequence[str],
    fields: str,
    tasks: str,
    include_path: str,
    default_tasks: bool,
) -> Iterator[Item]:
    """Yields the items that a config names.

    A record is an item for each of its texts, since a question may stand where its answers do not.
    A list of texts is one, since the answers to choose from say little each, and much together.

    Args:
      files: globs; the suffix of each says its format, as in files of labelled data. "": none.
      fields: of records, that hold texts, with commas between; "" for all texts.
      tasks: names of lm_eval's tasks, with commas between, of which all documents are items that an
        evaluation would score.
      include_path: a folder of tasks of one's own, as lm_eval has them; "": none.
      default_tasks: whether lm_eval's own tasks are known too; they are listed, which takes long,
        only where a name is no task of that folder.

    Raises:
      UserError: a file cannot be read or has no text, a field is missing, or a task is unknown.
    """
    wanted = [field.strip() for field in fields.split(",") if field.strip()]
    if files:
        for path in files_lib.find("", files, key="decontaminate.files"):
            reader, has_items = formats.reader_of(path), False
            for record in formats.read(path, files_lib.MAX_DOCUMENT_BYTES, reader):
                if isinstance(record, UserError):
                    raise files_lib.without_skip(record)
                for item in _items_of(record, wanted):
                    has_items = True
                    yield item
            if not has_items:  # Or else that evaluation would pass for one that was looked for.
                raise UserError(
                    f"decontaminate.files: {files_lib.shown(path)} has no text; leave it out"
                )
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    if names:
        yield from _of_tasks(names, wanted, include_path, default_tasks)


def _items_of(record: fields_lib.Record, wanted: Sequence[str]) -> Iterator[Item]:
    if not wanted:
        for text in fields_lib.texts_of(record):
            yield _item(record.name, text)
    for field in wanted:
        try:
            value = fields_lib.lookup(record.fields, field)
        except KeyError:
            raise UserError(
                f"{record.name}: has no field {field!r} of decontaminate.fields; it has "
                f"{fields_lib.names_of(record.fields)}"
            ) from None
        for text in fields_lib.texts_of(fields_lib.Record(record.name, {field: value})):
            yield _item(f"{record.name} {field}", text)


def _item(name: str, text: str) -> Item:
    if error := files_lib.half_character(name, text):
        raise files_lib.without_skip(error)
    return Item(name, text)


def _of_tasks(
    names: Sequence[str], wanted: Sequence[str], include_path: str, default_tasks: bool
) -> Iterator[Item]:
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise UserError("decontaminate.tasks needs lm_eval; run: pip install lm_eval") from None
    if include_path and not pathlib.Path(include_path).is_dir():
        raise UserError(f"decontaminate.include_path={include_path} is no folder")
    manager = TaskManager(include_path=include_path or None, include_defaults=False)
    # To list lm_eval's own is to read 14,000 files, and tasks of one's own go before them. Groups
    # and tags may hold some of both.
    if default_tasks and not set(names) <= set(manager.all_subtasks):
        manager = TaskManager(include_path=include_path or None)
    for name in names:
        if not manager.match_tasks([name]):
            raise UserError(f"decontaminate.tasks: {name!r} is unknown to lm_eval")
    found: dict[str, Any] = {}
    for name in names:  # By itself: at once, lm_eval refuses a task beside a group that has it.
        try:
            found |= manager.load([name])["tasks"]  # Of groups and tags, the tasks in them.
        except (ValueError, OSError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise UserError(f"decontaminate.tasks: {name!r} cannot be loaded: {reason}") from None
    for name, task in sorted(found.items()):
        for i, document in enumerate(task.eval_docs):
            yield from _items_of(fields_lib.Record(f"{name}:{i}", dict(document)), wanted)
