"""Labelled examples that every machine has, made of the running Python's own standard library.

They are real text with gold labels that the language itself gives, so that each task can be tried,
and a model's score compared with a baseline's, without any download. Unless said otherwise, files
are for validation as in the corpus `python_stdlib`, so that no model pretrained on that read them.
"""

import ast
import collections
import copy
import functools
import hashlib
import io
import itertools
import keyword
import tokenize
from collections.abc import Callable, Iterator
from typing import Any

from lm.corpus import sources
from lm.formats import files

Item = tuple[str, dict[str, Any]]  # The name that errors call it by, and its fields.
_NUM_PACKAGES, _SNIPPET_LINES = 8, 8


def fingerprint() -> str:
    """Changes with the library."""
    root, names = sources.stdlib_files()
    return files.hash_files([root / name for name in names], root)


def read(task: str, split: str) -> list[Item]:
    """Lists the items of one of TASKS that are for training, or for validation."""
    return [item for held_out, item in _read(task) if held_out == (split == "validation")]


@functools.cache
def _read(task: str) -> list[tuple[bool, Item]]:
    return list(TASKS[task]())


def docstrings() -> Iterator[tuple[bool, Item]]:
    """Yields first paragraphs of docstrings with their packages: {"text", "label"}."""
    found: dict[str, list[Item]] = collections.defaultdict(list)
    for name, _, tree in _trees(1.0):
        package = name.split("/")[0].removesuffix(".py")
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            text = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            if len(text.split()) > 5:
                fields = {"text": text, "label": package}
                found[package].append((f"{name}:{node.lineno}", fields))
    return _by_package(found)


def snippets() -> Iterator[tuple[bool, Item]]:
    """Yields eight lines of source in a row with their package: {"text", "label"}.

    There are thousands, so that one can ask how many a model needs.
    """
    root, names = sources.stdlib_files()
    found: dict[str, list[Item]] = collections.defaultdict(list)
    for name in names:
        package, is_folder, _ = name.partition("/")
        if not is_folder:
            continue
        try:
            lines = (root / name).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        lines = [line for line in lines if line.strip()]
        for first in range(0, len(lines) - _SNIPPET_LINES + 1, _SNIPPET_LINES):
            fields = {"text": "\n".join(lines[first : first + _SNIPPET_LINES]), "label": package}
            found[package].append((f"{name}:{first}", fields))
    return _by_package(found)


def _by_package(found: dict[str, list[Item]]) -> Iterator[tuple[bool, Item]]:
    """Yields the items of the eight packages with the most, of texts that occur once."""
    texts = collections.Counter(item["text"] for items in found.values() for _, item in items)
    found = {p: [i for i in items if texts[i[1]["text"]] == 1] for p, items in found.items()}
    largest = sorted(found, key=lambda package: (-len(found[package]), package))[:_NUM_PACKAGES]
    for item in itertools.chain.from_iterable(found[package] for package in sorted(largest)):
        # By text and not by file, since some packages are a single file. A model pretrained on the
        # library may have read these texts, though not which package they are from.
        yield _chosen(item[1]["text"], 0.1), item


def token_roles() -> Iterator[tuple[bool, Item]]:
    """Lines of source with the role of their names: {"tokens", "tags", "space_before"}.

    `x = os.path.join(a, sep=b)` has the tokens and tags

        x         =  os      .       path    .       join    (  a  ,  sep         =  b  )
        B-target  O  B-call  I-call  I-call  I-call  I-call  O  O  O  B-argument  O  O  O

    Roles are function and class (the name of what is defined), parameter, argument (a keyword's),
    call, target, decorator, module and imported. One name has different ones in different places.
    """
    for name, source, tree in _trees(1 / 6):
        roles = _roles(tree)
        for line in _logical_lines(source):
            if not _chosen(f"{name} {line[0].start}", 1 / 5):
                continue
            tags = _tags(line, roles)
            if any(tag != "O" for tag in tags):
                pairs = itertools.pairwise(line)
                spaces = [False, *(before.end != token.start for before, token in pairs)]
                tokens = [token.string for token in line]
                fields = {"tokens": tokens, "tags": tags, "space_before": spaces}
                yield sources.is_held_out(name), (f"{name}:{line[0].start[0]}", fields)


def summaries() -> Iterator[tuple[bool, Item]]:
    """Yields functions without their docstring, and its first sentence: {"source", "target"}."""
    for name, functions in _functions():
        for line, source, sentence in functions:
            item = f"{name}:{line}", {"source": source, "target": sentence}
            yield sources.is_held_out(name), item


def questions() -> Iterator[tuple[bool, Item]]:
    """Asks which of up to four functions does what a sentence says, as SQuAD has it.

    The context is their source, the question the first sentence, the answer the function's name.
    """
    for name, functions in _functions():
        for first in range(0, len(functions), 4):
            group = functions[first : first + 4]
            context = "\n\n".join(source for _, source, _ in group)
            start = 0
            for line, source, sentence in group:
                at = start + source.index("def ") + len("def ")
                answer = {"text": context[at : context.index("(", at)], "answer_start": at}
                fields = {"id": f"{name}:{line}", "context": context, "question": sentence}
                fields |= {"answers": [answer], "is_impossible": False}
                yield sources.is_held_out(name), (f"{name}:{line}", fields)
                start += len(source) + 2  # Behind the empty line that joins them.


def conversations() -> Iterator[tuple[bool, Item]]:
    """Yields a question about what a function does, answered by its docstring's first sentence."""
    for name, functions in _functions():
        for line, source, sentence in functions:
            messages = [
                {"role": "user", "content": f"{source}\nWhat does this do?"},
                {"role": "assistant", "content": sentence},
            ]
            yield sources.is_held_out(name), (f"{name}:{line}", {"messages": messages})


def _functions() -> Iterator[tuple[str, list[tuple[int, str, str]]]]:
    """Yields of each file the functions of up to 400 characters whose docstring is a sentence.

    With each its line, the source without the docstring, and the docstring's first sentence.
    """
    for name, _, tree in _trees(1.0):
        found = []
        for node in ast.walk(tree):
            if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
                continue
            sentence = _first_sentence(ast.get_docstring(node) or "")
            if not 4 <= len(sentence.split()) <= 20:
                continue
            bare = copy.copy(node)  # Shallow: the tree keeps its docstrings.
            bare.body = node.body[1:]
            source = ast.unparse(bare)
            if len(source) <= 400:
                found.append((node.lineno, source, sentence))
        yield name, sorted(found)


# Each yields whether an item is for validation, and the item.
TASKS: dict[str, Callable[[], Iterator[tuple[bool, Item]]]] = {
    "docstrings": docstrings,
    "snippets": snippets,
    "token_roles": token_roles,
    "summaries": summaries,
    "questions": questions,
    "conversations": conversations,
}


def _chosen(text: str, share: float) -> bool:
    """Chooses about a share of all texts, always the same ones."""
    digest = hashlib.sha256(text.encode(errors="replace")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _trees(share: float) -> Iterator[tuple[str, str, ast.Module]]:
    """Yields name, text and tree of about a share of the library's files that are valid Python."""
    root, names = sources.stdlib_files()
    for name in names:
        if _chosen(name, share):
            try:
                text = (root / name).read_text(encoding="utf-8")
                yield name, text, ast.parse(text)
            except (SyntaxError, ValueError):  # Also of text that is no UTF-8, or has NUL in it.
                continue


def _first_sentence(docstring: str) -> str:
    paragraph = " ".join(docstring.split("\n\n")[0].split())
    return paragraph.split(". ")[0].rstrip(".")


_Place = tuple[int, int]  # Line, and column in bytes, as `ast` counts.


def _roles(tree: ast.Module) -> dict[_Place, tuple[_Place, str]]:
    """Maps where each name with a role starts to where it ends, and the role."""
    roles: dict[_Place, tuple[_Place, str]] = {}

    def add(node: ast.AST, role: str) -> None:
        start = (node.lineno, node.col_offset)
        roles.setdefault(start, ((node.end_lineno, node.end_col_offset), role))

    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                for decorator in node.decorator_list:
                    name = decorator.func if isinstance(decorator, ast.Call) else decorator
                    if _is_dotted(name):
                        add(name, "decorator")  # Before its call is walked: the first role stays.
            case ast.Call() if _is_dotted(node.func):
                add(node.func, "call")
            case ast.keyword(arg=str()) | ast.arg():  # The tree's end is a value's.
                end = (node.lineno, node.col_offset + len(node.arg.encode()))
                role = "parameter" if isinstance(node, ast.arg) else "argument"
                roles[node.lineno, node.col_offset] = (end, role)
            case ast.Name(ctx=ast.Store()):
                add(node, "target")
            case ast.Attribute(ctx=ast.Store()) if _is_dotted(node):
                add(node, "target")
    return roles


def _is_dotted(node: ast.AST) -> bool:
    """Tells a name, or names with dots between, from any other expression."""
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name)


_SKIPPED = {tokenize.NL, tokenize.COMMENT, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING}
_KEPT = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}


def _logical_lines(text: str) -> Iterator[list[tokenize.TokenInfo]]:
    """Yields the tokens of each logical line that has 3 to 40 tokens, none of them long."""
    line: list[tokenize.TokenInfo] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NEWLINE:
            short = all(len(t.string) <= 30 and t.type in _KEPT for t in line)
            if short and 3 <= len(line) <= 40:
                yield line
            line = []
        elif token.type not in _SKIPPED:
            line.append(token)  # One of neither set, as the parts of f-strings, spoils the line.


def _tags(line: list[tokenize.TokenInfo], roles: dict[_Place, tuple[_Place, str]]) -> list[str]:
    """Tags each token by the role of the name that starts at it or goes on over it."""
    tags = _definition_tags(line)
    inside: tuple[_Place, str] | None = None  # Where the current name ends, and its role.
    for i, token in enumerate(line):
        start = _in_bytes(token, token.start)
        if inside and start >= inside[0]:
            inside = None
        if inside:
            tags[i] = f"I-{inside[1]}"
        elif start in roles and tags[i] == "O" and token.type == tokenize.NAME:
            inside = roles[start]
            tags[i] = f"B-{inside[1]}"
    return tags


def _definition_tags(line: list[tokenize.TokenInfo]) -> list[str]:
    """Tags names that are defined or imported, for which the tree gives no place."""
    words = [token.string for token in line]
    tags = ["O"] * len(line)
    for i, word in enumerate(words[:-1]):
        if word in ("def", "class"):
            tags[i + 1] = "B-function" if word == "def" else "B-class"
    if words[0] not in ("import", "from"):
        return tags
    role = "module"
    for i in range(1, len(words)):
        if words[i] == "import":
            role = "imported"
        elif words[i - 1] == "as":
            tags[i] = "B-target"
        elif words[i] == "." or (words[i].isidentifier() and not keyword.iskeyword(words[i])):
            goes_on = tags[i - 1] != "O" and "." in (words[i], words[i - 1])
            tags[i] = f"{'I' if goes_on else 'B'}-{role}"
    return tags


def _in_bytes(token: tokenize.TokenInfo, place: tuple[int, int]) -> _Place:
    # `tokenize` counts columns in characters; a token of several lines starts in the first.
    line = token.line.splitlines(keepends=True)[0] if token.line else ""
    return place[0], len(line[: place[1]].encode())
