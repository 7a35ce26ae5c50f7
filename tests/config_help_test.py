"""Every key of every config has a comment that says what it is, and texts name no other keys."""

import functools
import json
import pathlib
import re
import subprocess
import sys

import pytest
import yaml

from experiments import cli, config_help
from lm.errors import UserError

ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted((ROOT / "configs").glob("*.py"))
RECIPES = [path for path in FILES if "\ndef get_config(" in path.read_text()]
TEXTS = [ROOT / "README.md", ROOT / "configs/README.md", *sorted(ROOT.glob("docs/**/*.md"))]


def unlike(path):
    """The configs of a file, by name, that have other keys than those before them."""
    seen = set()
    for name, config in config_help.variants(path):
        if (keys := frozenset(cli.flat(config))) not in seen:
            yield name, config
        seen.add(keys)


def missing(path):
    """Keys without an explanation, each with a config that has it."""
    found = config_help.explanations(path)
    return {
        key: name
        for name, config in unlike(path)
        for key in cli.flat(config).keys() - config_help.explained(cli.flat(config), found).keys()
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_key_is_explained_where_it_stands(path):
    assert missing(path) == {}


def test_a_key_without_a_comment_is_found(tmp_path):
    recipe = (ROOT / "configs/convert.py").read_text()
    (tmp_path / "mine.py").write_text(re.sub(r'(config.base = "").*', r"\1", recipe))

    assert missing(tmp_path / "mine.py") == {"base": "mine.py"}


def test_nothing_is_explained_that_no_config_has():
    known = {
        (config_help.general(key), text)
        for path in RECIPES
        for found in [config_help.explanations(path)]
        for _, config in unlike(path)
        for key, text in config_help.explained(cli.flat(config), found).items()
    }

    modules = map(config_help._Module, FILES)
    said = [one for m in modules for name in m.defined for one in m.explanations(name)]

    assert len(said) > 200
    for one in said:
        assert (one.key, one.text) in known, one
        assert one.text.endswith(".") and one.text[0] != " ", one


EXAMPLE = '''
import ml_collections

_RULES = dict(other=1)  # No key of its own line.
# Of the optimizer block.
_RATES = {
    "slow": dict(
        lr=0.1,  # How fast.
    ),
    "fast": dict(lr=0.2, warm=3),  # Not said: two keys.
}


def _train():
    """The train block."""
    return dict(
        num_steps=3,  # How many.
        unsaid=4,
    )


def _unused():
    return dict(
        hidden=1,  # Nothing speaks of this function.
    )


def get_config():
    config = ml_collections.ConfigDict()
    config.seed = 1  # Of what is drawn.
    config.train = _train()
    config.optimizer = _RATES["slow"]
    config.train.num_steps = 4  # A change says why, and not what.
    task = dict(
        kind="tags",  # The task.
    )
    config.task = task
    return config
'''


def test_comments_are_about_keys_on_lines_of_their_own(tmp_path):
    (tmp_path / "mine.py").write_text(EXAMPLE)

    found = config_help.explanations(tmp_path / "mine.py")

    assert {one.key: one.text for one in found} == {
        "optimizer.lr": "How fast.",
        "train.num_steps": "How many.",
        "seed": "Of what is drawn.",
        "task.kind": "The task.",
    }


NASTY = {
    "data.train": "a  # b: 'c' \"d\"\n\n  e" + " long" * 60,
    "data.validation": "- x",
    "tokenizer.user_symbols": ("<a, b>", "# c", "", "\n"),
    "model.name": "#",
    "init_from": " ",
}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_comments_leave_the_yaml_as_it_is(path):
    found = config_help.explanations(path)
    for name, config in unlike(path):
        for key, value in NASTY.items():
            if key in cli.flat(config):
                config.update_from_flattened_dict({key: value})

        text = config_help.config_text(config, str(path.parent / name))

        assert yaml.safe_load(text) == json.loads(config.to_json())
        explained = config_help.explained(cli.flat(config), found)
        assert text.count("  # ") >= len(explained) == len(cli.flat(config))
        for comment in explained.values():
            assert f"  # {comment}\n" in text


def test_help_says_what_keys_are_and_where(capsys):
    config_help.print_help("Warmup_sh")

    key, *values = capsys.readouterr().out.splitlines()

    assert key.startswith("optimizer.warmup_share: ")
    assert "    0.05 in adapt.py" in values


def test_help_knows_keys_that_an_argument_brings(capsys):
    config_help.print_help("momentum")
    config_help.print_help("max_requeues")

    said = capsys.readouterr().out

    assert "0.9 with optimizer=sgd in adapt.py, " in said
    assert "launcher.max_requeues: " in said and "20 with slurm in launchers.py" in said


def test_help_of_a_key_that_is_nowhere_names_the_nearest():
    with pytest.raises(UserError, match=r"warmpu_steps: no config has .* near: warmup_steps"):
        config_help.print_help("warmpu_steps")

    command = [sys.executable, "launch.py", "--help_config=warmpu_steps"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


FILE_SUFFIXES = "md|py|json|jsonl|tsv|csv|txt|conll|png|svg|yaml|lock|safetensors"


@functools.cache
def keys():
    return {key for key, *_ in config_help.all_keys()}


def named(text):
    """The keys that a text names: in `--config.KEY`, `--launcher.KEY`, and in backticks."""
    for flag, key in re.findall(r"--(config|launcher)\.([a-z]\w*(?:\.\w+)*)", text):
        yield key if flag == "config" else f"launcher.{key}"
    blocks = "|".join({key.partition(".")[0] for key in keys() if "." in key})
    for code in re.findall(r"`([^`\n]+)`", text):
        for key in re.findall(rf"(?<![\w./*-])((?:{blocks})(?:\.\w+)+\*?)", code):
            if not re.search(rf"\.({FILE_SUFFIXES})$", key):
                yield key


def is_key(name):
    """Whether it is a key, or a block, or, with a star behind it, how some keys begin."""
    name = config_help.general(name)
    begins = name.removesuffix("*") if name.endswith("*") else f"{name}."
    return name in keys() or any(key.startswith(begins) for key in keys())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_name_no_key_that_does_not_exist(path):
    assert [name for name in named(path.read_text()) if not is_key(name)] == []


def test_a_wrong_key_in_a_text_is_found():
    text = "`train.num_step=3`, `model.mup_*`, `data.md`; --config.optimizer.lr=1 --launcher.nods=2"

    assert [name for name in named(text) if not is_key(name)] == [
        "optimizer.lr",
        "launcher.nods",
        "train.num_step",
    ]
