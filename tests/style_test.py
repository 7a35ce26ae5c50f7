"""Checks the conventions that a reviewer would otherwise have to remember."""

import ast
import graphlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# They cannot be imported beside Apache Beam's protobuf; lm/tokenizers/sentencepiece_proto.py can.
GENERATED = {"sentencepiece.sentencepiece_model_pb2", "sentencepiece.sentencepiece_pb2"}
FORBIDDEN = {  # The dependency rule, as data: who must not import what.
    "lm": {
        "absl.flags",
        "ml_collections",
        "configs",
        "experiments",
        "tests",
        "tensorflow",
        "pickle",
        *GENERATED,
    },
    "configs": {"lm", "experiments", "tests", "jax"},
    "experiments": {"configs", "tests", "tensorflow", "pickle", *GENERATED},
    "benchmarks": {"tests"},
}
# Rooms from the ground up: a file imports its own room and those that stand before it.
ROOMS = [
    "lm.errors",
    "lm.settings",
    "lm.system",
    "lm.run",
    "lm.formats",
    "lm.tokenizers",
    "lm.chat",
    "lm.corpus",
    "lm.curation",
    "lm.data",
    "lm.metrics",
    "lm.models",
    "lm.losses",
    "lm.objectives",
    "lm.parallel",
    "lm.costs",
    "lm.train",
    "lm.generation",
    "lm.tasks",
    "lm.interop",
    "lm.loading",
    "lm.inference",
    "lm.interpret",
    "lm.fairness",
    "lm.serve",
    "lm.results",
    "lm",
    "experiments.cli",
    "experiments.config_help",
    "experiments.wiring",
    "experiments.report",
    "experiments.experiment",
    "experiments.lifecycle",
    "experiments.training",
    "experiments.pretrain",
    "experiments.finetune",
    "experiments.evaluate",
    "experiments.generate",
    "experiments.serve",
    "experiments.predict",
    "experiments.interpret",
    "experiments.convert",
    "experiments.extend",
    "experiments.fertility",
    "experiments.fairness",
    "experiments.harness",
    "experiments.coordinates",
    "experiments.curate",
    "experiments.estimates",
    "experiments.sweeps",
    "experiments.launchers",
    "experiments.dry_run",
    "experiments.verify",
    "experiments",
]
MAX_FUNCTION_LINES, MAX_FILE_LINES = 110, 420
# Functions of experiments that take the whole config, at most; keys that each reads, at least.
MAX_TAKERS, MIN_KEYS = 56, 3
CONFIGS, WHOLE = {"config", "self.config"}, {"copy_and_resolve_references", "to_dict", "to_json"}


def sources(*folders):
    return [path for f in folders for path in sorted((ROOT / f).rglob("*.py"))]


def suffix(node):
    """'BLD' for the name x_BLD or the attribute batch.x_BLD; None otherwise."""
    name = getattr(node, "id", None) or getattr(node, "attr", "")
    match = re.search(r"_([A-Z0-9]+)$", name)
    return match and match[1]


@pytest.mark.parametrize("path", sources("lm"), ids=str)
def test_einsum_letters_match_the_names(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if not (isinstance(node, ast.Call) and ast.unparse(node.func) == "jnp.einsum"):
            continue
        terms = node.args[0].value.split("->")[0].split(",")
        for term, operand in zip(terms, node.args[1:], strict=True):
            assert suffix(operand) in (None, term), f"{path}:{node.lineno}: {term}"


def imported(node):
    """Every dotted name that an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return []


@pytest.mark.parametrize("path", sources(*FORBIDDEN), ids=str)
def test_imports_point_down(path):
    forbidden = FORBIDDEN[path.relative_to(ROOT).parts[0]]
    for node in ast.walk(ast.parse(path.read_text())):
        for name in imported(node):
            parents = {".".join(name.split(".")[: i + 1]) for i in range(name.count(".") + 1)}
            assert not parents & forbidden, f"{path}:{node.lineno} must not import {name}"


def imports():
    """file -> the files of lm and experiments that it imports, both by their dotted names."""
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sources("lm", "experiments")
    }
    found = {}
    for name, path in files.items():
        named = [imported(node) for node in ast.walk(ast.parse(path.read_text()))]
        found[name] = {other for names in named for other in names if other in files} - {name}
        # `from lm.data import records` names the room too, whose __init__ is empty.
        rooms = {other.rpartition(".")[0] for other in found[name]}
        found[name] -= {room for room in rooms if files.get(room, path).name == "__init__.py"}
    return found


def room(name):
    return max((r for r in ROOMS if f"{name}.".startswith(f"{r}.")), key=len)


def against_the_order(found):
    return [
        f"{name} must not import {other}, whose room is above its own"
        for name, others in found.items()
        for other in others
        if ROOMS.index(room(other)) > ROOMS.index(room(name))
    ]


def test_rooms_look_down():
    found = imports()
    assert len(found) > 200
    assert against_the_order(found) == []
    assert against_the_order({"lm.data.records": {"lm.train.step"}})


def test_no_circle_among_files():
    found = imports()
    graphlib.TopologicalSorter(found).prepare()
    found["lm.errors"] = {"lm.train.checkpoints"}
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(found).prepare()


@pytest.mark.parametrize("path", sources("lm", "configs", "experiments"), ids=str)
def test_files_and_functions_stay_short(path):
    text = path.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


@pytest.mark.parametrize("path", sources("lm"), ids=str)
def test_public_things_say_what_they_are(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree) or not path.read_text(), path
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{path}:{node.lineno}: {node.name}"


def test_the_road_from_launch_to_model_stays_short():
    """As README lists it, with the lines of each file."""
    rows = re.findall(r"^\| `([\w/]+\.py)` \| (\d+) \|", (ROOT / "README.md").read_text(), re.M)
    lines = {name: len((ROOT / name).read_text().splitlines()) for name, _ in rows}

    assert 0 < len(rows) <= 9
    assert sum(lines.values()) <= 1500, lines
    for name, said in rows:
        assert abs(lines[name] - int(said)) <= 20, f"README.md says {said} lines of {name}"


MENTIONED = re.compile(r"(?<![\w/.])(?:lm|experiments|configs|benchmarks|tests|docs)/[\w/]+\.\w+")
TEXTS = [path for pattern in ("*.md", "*.py") for path in sorted(ROOT.rglob(pattern))]
FILE_NAMES = {path.name for path in sources(*FORBIDDEN)}
TEXTS = [path for path in TEXTS if path.relative_to(ROOT).parts[0] in (*FORBIDDEN, "docs")]


@pytest.mark.parametrize("path", [ROOT / "README.md", *TEXTS], ids=str)
def test_files_that_are_mentioned_are_there(path):
    text = path.read_text()
    names = [name for name in MENTIONED.findall(text) if "NAME" not in name]

    assert [name for name in names if not (ROOT / name).exists()] == []
    without_folder = re.findall(r"`(\w+\.py)`", text) if path.suffix == ".md" else []
    assert set(without_folder) <= FILE_NAMES | {"launch.py"}


def takers_of_configs():
    """Functions of experiments with a parameter `config`, by dotted name.

    With each the node that it is read in, which is the class of a method, since that may keep the
    config; and what the names of its file stand for.
    """
    found = {}
    for path in sources("experiments"):
        tree, module = ast.parse(path.read_text()), ".".join(path.relative_to(ROOT).parts)[:-3]
        names = {node.name: f"{module}.{node.name}" for node in tree.body if hasattr(node, "name")}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        for scope in tree.body:
            for node in ast.walk(scope):
                if not isinstance(node, ast.FunctionDef):
                    continue
                if any(isinstance(x, ast.arg) and x.arg == "config" for x in ast.walk(node.args)):
                    inner = "" if node is scope or node.name == "__init__" else f".{node.name}"
                    found[f"{module}.{scope.name}{inner}"] = scope, names
    return found


def keys_read(taker, takers, seen=()):
    """Keys of `config` that a function reads, itself or through functions that it hands it to."""
    scope, names = takers[taker]
    parents = {child: node for node in ast.walk(scope) for child in ast.iter_child_nodes(node)}
    keys = set()
    for node in ast.walk(scope):
        if not (isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in CONFIGS):
            continue
        chain, above = [], parents.get(node)
        while isinstance(above, ast.Attribute):
            chain, above = [*chain, above.attr], parents.get(above)
        keys |= WHOLE if WHOLE & {*chain} else {".".join(chain[:2])} - {""}
        if not chain and isinstance(above, ast.Call):
            for function in map(ast.unparse, [above.func, *above.args]):
                head, dot, rest = function.partition(".")
                called = f"{names.get(head, head)}{dot}{rest}"
                if called in takers and called not in (*seen, taker):
                    keys |= keys_read(called, takers, (*seen, taker))
    return keys


def test_configs_stop_at_the_doors_of_experiments():
    takers = takers_of_configs()
    assert len(takers) <= MAX_TAKERS, sorted(takers)
    for taker in takers:
        keys = keys_read(taker, takers)
        assert len(keys) >= MIN_KEYS, f"{taker} takes the config for {keys}: hand it values"
