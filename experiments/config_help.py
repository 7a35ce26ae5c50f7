"""Explains each key of a config by the comment behind it in configs/*.py."""

import ast
import collections
import difflib
import importlib.util
import inspect
import io
import pathlib
import re
import tokenize
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple

import ml_collections
import yaml

from experiments import cli
from lm.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
_COMMENT_COLUMN = 44


class Explanation(NamedTuple):
    """A comment behind a key."""

    key: str  # With its block, as "optimizer.peak_lr"; of blocks that a user names, see `general`.
    text: str
    siblings: frozenset[str]  # All keys of its `dict(...)`: it is about configs that have them all.
    place: str  # File and line.


def explanations(path: pathlib.Path) -> list[Explanation]:
    """Finds those in all code that the `get_config` of a config file refers to, in any file."""
    modules: dict[pathlib.Path, _Module] = {}
    found, seen, left = [], set(), [(path.resolve(), "get_config")]
    while left:
        if (at := left.pop()) in seen:
            continue
        seen.add(at)
        path, name = at
        if path not in modules:
            modules[path] = _Module(path)
        found += modules[path].explanations(name)
        left += modules[path].references(name)
    return found


def explained(keys: Collection[str], found: Collection[Explanation]) -> dict[str, str]:
    """Gives the text for each dotted key of a config that is explained."""
    texts, ranks = {}, {}
    names = {key: general(key) for key in keys}
    parents = {key.rpartition(".")[0] for key in names.values()}
    known = {*names.values(), *parents, *(f"{parent}.parts" for parent in parents)}
    for one in found:
        # Of several the one whose `dict(...)` has most keys in common with the config.
        if one.siblings <= known and len(one.siblings) > ranks.get(one.key, 0):
            texts[one.key], ranks[one.key] = one.text, len(one.siblings)
    return {key: texts[name] for key, name in names.items() if name in texts}


def general(key: str) -> str:
    """Leaves out the name of a part, a source, or an input: inputs.web.path -> inputs.path.

    What one corpus of eval.corpora has is told with the block.
    """
    names = r"\.parts\.\w+|(?<=^inputs)\.\w+(?=\.)|(?<=^data\.sources)\.[\w-]+(?=\.)"
    names += r"|(?<=^eval\.corpora)\..*"
    return re.sub(names, "", key)


class _Module:
    """The source of one file: what it defines, what that refers to, and its comments."""

    def __init__(self, path: pathlib.Path):
        with tokenize.open(path) as file:
            self._path, source = path, file.read()
        self._lines = source.splitlines()
        # By tokens, for `ast` drops comments, and a string may hold a "#".
        tokens = tokenize.generate_tokens(io.StringIO(source).readline)
        self._comments = {t.start[0]: t.string for t in tokens if t.type == tokenize.COMMENT}
        self.defined: dict[str, ast.stmt] = {}
        self._imported: dict[str, tuple[pathlib.Path, str | None]] = {}
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                self.defined[node.name] = node
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.defined[node.targets[0].id] = node
            elif isinstance(node, ast.ImportFrom) and node.module:
                folder = ROOT.joinpath(*node.module.split("."))
                for alias in node.names:
                    # `from configs import common` names a file, or something in one.
                    for file, name in ((folder / alias.name, None), (folder, alias.name)):
                        if (file := file.with_suffix(".py")).is_file():
                            self._imported[alias.asname or alias.name] = (file, name)

    def references(self, name: str) -> Iterator[tuple[pathlib.Path, str]]:
        """Lists the definitions that one refers to, here and in imported files."""
        if name not in self.defined and self._imported.get(name, (None, None))[1]:
            yield self._imported[name]
        for node in ast.walk(self.defined[name]) if name in self.defined else ():
            match node:
                case ast.Name(id=other) if other in self.defined:
                    yield self._path, other
                case ast.Name(id=other) if self._imported.get(other, (None, None))[1]:
                    yield self._imported[other]
                case ast.Attribute(value=ast.Name(id=module), attr=other):
                    if self._imported.get(module, (None, "x"))[1] is None:
                        yield self._imported[module][0], other

    def explanations(self, name: str) -> Iterator[Explanation]:
        """Yields those inside of a definition: of keys with a line, and a comment, of their own."""
        definition = self.defined.get(name)
        if definition is None:
            return
        statements = [node for node in ast.walk(definition) if isinstance(node, ast.stmt)]
        for statement in statements:
            if isinstance(statement, ast.FunctionDef | ast.If):
                continue  # Their own statements are in the list.
            block = self._block(definition, statement)
            calls = [node for node in ast.walk(statement) if _is_dict(node)]
            for call in calls:
                keys = {word.arg: word.value.end_lineno for word in call.keywords if word.arg}
                lines = collections.Counter(keys.values())
                # Of several keys on a line no one can tell which one a comment is about.
                keys = {key: line for key, line in keys.items() if lines[line] == 1}
                dotted = frozenset(_dotted(block, w.arg) for w in call.keywords if w.arg)
                for key, line in keys.items():
                    yield from self._explanation(_dotted(block, key), line, dotted)
            if not calls and block and _is_config(statement):
                yield from self._explanation(block, statement.end_lineno, frozenset({block}))

    def _explanation(self, key, line, siblings) -> Iterator[Explanation]:
        if line in self._comments:
            place = f"{self._path.name}:{line}"
            yield Explanation(key, self._comments[line].strip("# "), siblings, place)

    def _block(self, definition: ast.stmt, statement: ast.stmt) -> str:
        """Names the block whose keys a statement makes, if any."""
        targets = getattr(statement, "targets", [None])
        if _is_config(statement):  # `config.NAME = dict(...)`
            return targets[0].attr
        # "The NAME block", in the docstring of a function or the comment above a constant.
        is_function = isinstance(definition, ast.FunctionDef)
        said = (ast.get_docstring(definition) if is_function else None) or ""
        line = definition.lineno - 1
        while not is_function and self._lines[line - 1].startswith("#"):
            said, line = f"{self._lines[line - 1]} {said}", line - 1
        if named := re.search(r"([\w.]+) block\b", said):
            return named[1]
        # A local variable, which becomes the block of its name.
        return targets[0].id if is_function and isinstance(targets[0], ast.Name) else ""


def _is_dict(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict"


def _is_config(node: ast.stmt) -> bool:
    match node:
        case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="config"))]):
            return True
    return False


def _dotted(block: str, key: str) -> str:
    return f"{block}.{key}" if block else key


def config_text(config: ml_collections.ConfigDict, filename: str) -> str:
    """Writes the config of --config=`filename` as YAML, with a comment behind each key."""
    text = cli.config_text(config)
    found = explanations(pathlib.Path(filename.partition(":")[0]))
    texts = explained(cli.flat(config), found)
    lines = text.splitlines()
    for key, line in _key_lines(yaml.compose(text, Loader=yaml.SafeLoader), ()):
        if key in texts:
            lines[line] = f"{lines[line].ljust(_COMMENT_COLUMN)}  # {texts[key]}"
    return "\n".join(lines) + "\n"


def _key_lines(node: yaml.MappingNode, above: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """Yields each dotted key, and the line of YAML behind which a comment is about its value."""
    for name, value in node.value:
        path = (*above, name.value)
        if isinstance(value, yaml.MappingNode) and value.value:
            yield from _key_lines(value, path)
        else:  # A list begins behind the line of its key.
            is_list = isinstance(value, yaml.SequenceNode) and not value.flow_style
            yield ".".join(path), (name if is_list else value).end_mark.line


def variants(path: pathlib.Path) -> Iterator[tuple[str, ml_collections.ConfigDict]]:
    """Yields a file's configs by its name with arguments: the plain one, then one per argument."""
    spec = importlib.util.spec_from_file_location(f"configs.{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    parameters = inspect.signature(module.get_config).parameters.values()
    if all(parameter.default is not parameter.empty for parameter in parameters):
        yield path.name, module.get_config()
    for argument in _arguments(module.get_config) if parameters else ():
        yield f"{path.name}:{argument}", module.get_config(argument)


def _arguments(get_config: Callable) -> Iterator[str]:
    names = _choices(get_config, "?")
    if isinstance(names, list) and next(iter(inspect.signature(get_config).parameters)) != "arg":
        yield from names  # The argument is itself the choice, as of a launcher.
        return
    for name in names:
        for value in _choices(get_config, f"{name}=PATH"):
            yield f"{name}={value}"


def _choices(get_config: Callable, argument: str) -> list[str]:
    """Lists what may stand for a wrong argument, by what `get_config` says of it."""
    try:
        get_config(argument)
    except ValueError as error:  # Its message lists them, as `configs.common` writes it.
        if "must be true or false" in str(error):
            return ["true"]
        listed = re.search(r"(?:choose|takes) (.+)", str(error))
        return listed[1].split(", ") if listed else []
    return [argument.partition("=")[2]]


def print_help(part: str) -> int:
    """Prints the keys that have this in their name: what they are, their values and configs.

    Raises:
      UserError: no config has such a key.
    """
    values: dict[tuple[str, str], dict[str, list[str]]] = {}
    names = set()
    for key, text, value, filename in all_keys():
        names.add(key)
        if part.lower() in key.lower():
            file, _, argument = filename.partition(":")
            value += f" with {argument}" if argument else ""
            values.setdefault((key, text), {}).setdefault(value, []).append(file)
    if not values:
        words = {*names, *(key.rpartition(".")[2] for key in names)}
        near = difflib.get_close_matches(part, sorted(words), n=3, cutoff=0)
        raise UserError(
            f"--help_config={part}: no config has such a key; near: {', '.join(near)}; "
            "--help lists the flags"
        )
    for (key, text), files_of in sorted(values.items()):
        print(f"{key}: {text}")
        for value, files in files_of.items():
            print(f"    {value} in {', '.join(files)}")
    return 0


def all_keys() -> Iterator[tuple[str, str, str, str]]:
    """(key, explanation, value, file with arguments) of every recipe, and of every launcher."""
    for path in sorted((ROOT / "configs").glob("*.py")):
        if not re.search(r"^def get_config\(", path.read_text(), re.MULTILINE):
            continue  # It is what recipes share.
        found, seen = explanations(path), set()
        is_launcher = path.stem == "launchers"
        for filename, config in variants(path):
            values = cli.flat(config)
            texts = explained(values, found)
            # With an argument, the keys that the plain recipe lacks; each launcher has its own.
            new = {key: values[key] for key in values if is_launcher or key not in seen}
            seen |= new.keys()
            # Of the parts of a mixture, the first one's values stand for all: it is read last.
            for key, value in {general(k): v for k, v in reversed(new.items())}.items():
                name = f"launcher.{key}" if is_launcher else key
                text = next((t for k, t in texts.items() if general(k) == key), "")
                yield name, text, repr(value), filename
