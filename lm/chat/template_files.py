"""Reads and writes the chat templates that `transformers` keeps beside a tokenizer's files."""

import contextlib
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from lm.chat.chat_template import DEFAULT
from lm.chat.template_program import Program
from lm.errors import UserError
from lm.system import atomic_files, folder_files
from lm.system.progress_bar import say

FILE = "chat_template.jinja"
_OTHERS = "additional_chat_templates"  # A folder; each file in it is named by its template.
_IN_JSON = ("tokenizer_config.json", "chat_template.json")  # The latter is a processor's.
_NAME = re.compile(r"\w[\w.-]*")


class Templates(NamedTuple):
    """Templates by name, and where they are from, as people read it."""

    sources: dict[str, str]
    origin: str


def read(folder: pathlib.Path) -> Templates | None:
    """Returns the templates of a run, or of a folder of `transformers`; None where there is none.

    Raises:
      UserError: a file cannot be read, or holds no template.
    """
    for place in (folder / "tokenizer", folder):
        paths = {path.stem: path for path in sorted((place / _OTHERS).glob("*.jinja"))}
        if folder_files.has(place / FILE):
            paths["default"] = place / FILE
        if paths:  # Then those in tokenizer_config.json do not count, whatever their names.
            return Templates({name: _text(path) for name, path in paths.items()}, str(place))
    for name in _IN_JSON:
        if folder_files.has(folder / name) and (sources := _in_json(folder / name)):
            return Templates(sources, str(folder / name))
    return None


def choose(template: str, found: Templates | None, folder: str) -> Templates:
    """Returns the templates that a run lays its conversations out by, "default" among them.

    Args:
      template: `task.template`: a template's text, or what `dumps` gives of several; the name of
        one of the folder's; "" for the folder's own, or the plain one if it has none.
      found: of the folder.
      folder: what errors call it.

    Raises:
      UserError: the folder has no template of this name, or none that is its default.
    """
    if found is not None and template in found.sources:
        # As the default, whatever tools a conversation has and whoever reads an export.
        others = {k: v for k, v in found.sources.items() if k not in ("default", "tool_use")}
        return Templates(
            {"default": found.sources[template]} | others, f"{template!r} of {found.origin}"
        )
    if several := _as_list(template):
        return Templates(_named(several, "task.template"), "task.template")
    if "{" in template:
        return Templates({"default": template}, "task.template")
    names = ", ".join(found.sources) if found is not None else "none"
    if template:
        raise UserError(
            f"task.template={template!r} is no template, and no name of one of {folder or 'the'} "
            f"init_from's (it has {names})"
        )
    if found is None:
        because = f"{folder} has none" if folder else "a tokenizer trained here has none"
        return Templates({"default": DEFAULT}, f"the plain one, since {because}")
    if "default" not in found.sources:
        raise UserError(
            f"{found.origin} has chat templates, and none that is its default; name one: "
            f"--config.task.template=NAME, with one of {names}"
        )
    return found


def dumps(sources: Mapping[str, str]) -> str:
    """Returns templates as one text; a single one is its own."""
    if sources.keys() == {"default"}:
        return sources["default"]
    return json.dumps([{"name": name, "template": text} for name, text in sources.items()])


def write(folder: pathlib.Path, sources: Mapping[str, str]) -> None:
    """Writes the files that `read` and `transformers` read."""
    for name, text in sources.items():
        path = folder / FILE if name == "default" else folder / _OTHERS / f"{name}.jinja"
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_files.write(path, text)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the templates of one folder to another, if it has any; says which are no Jinja."""
    if (found := read(source)) is None:
        return
    write(target, found.sources)
    for name, text in found.sources.items():
        try:
            Program(text, f"the chat template {name!r} of {found.origin}")
        except UserError as error:
            say(f"{error}; it is kept as it is, and no chat can be laid out by it")


def _as_list(template: str) -> list[Any]:
    """Reads what `dumps` gave of several templates; [] for a text, even one such as "[{{ x }}]"."""
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(tree := json.loads(template), list):
            return tree
    return []


def _text(path: pathlib.Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error.reason}); restore it") from None


def _in_json(path: pathlib.Path) -> dict[str, str]:
    template = folder_files.json_object(path, _text(path).encode()).get("chat_template")
    if template is None:
        return {}
    return {"default": template} if isinstance(template, str) else _named(template, str(path))


def _named(templates: Any, where: str) -> dict[str, str]:
    """Maps [{"name": "default", "template": ...}, ...] to {"default": ..., ...}."""
    is_named = lambda x: (
        isinstance(x, dict) and all(isinstance(x.get(key), str) for key in ("name", "template"))
    )
    if not isinstance(templates, list) or not all(map(is_named, templates)):
        raise UserError(
            f'{where}: chat_template is neither a text nor a list of {{"name", "template"}}'
        )
    for template in templates:
        if not _NAME.fullmatch(template["name"]):  # It becomes a file's.
            raise UserError(f"{where}: a chat template cannot be named {template['name']!r}")
    return {template["name"]: template["template"] for template in templates}
