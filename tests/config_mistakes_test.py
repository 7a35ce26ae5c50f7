"""Mistakes in config files, and in where output is to go: one line that names the place."""

import os

import pytest

from experiments import cli
from experiments.wiring.number_ranges import check_output
from lm.errors import UserError

START = "import ml_collections\n\ndef get_config():\n"
MISTAKES = {
    "no Python": (b"def get_config(:\n", "line 1: SyntaxError: "),
    "no text": (b"\0\0", "line 1: SyntaxError: "),
    "not UTF-8": (b'import sys\n"caf\xe9"\n', "line .: SyntaxError: .*utf-8"),
    "division": (f"{START}  return 1 / 0\n", "line 4: ZeroDivisionError: division by zero"),
    "no module": ("import no_such_module\n", "line 1: ModuleNotFoundError: .*no_such_module"),
    "no name": (f"{START}  return here.there\n", "line 4: NameError: .*here"),
    "assertion": (f"{START}  assert False, 'never'\n", "line 4: AssertionError: never"),
    "value": (f"{START}\n  raise ValueError('a\\nb')\n", "line 5: ValueError: a b$"),
    "type": (f"{START}\n  return len(5)\n", "line 5: TypeError: .*no len"),
    "key": (f"{START}  return {{}}['a']\n", "line 4: KeyError: 'a'"),
    "attribute": (f"{START}  return ml_collections.Dict\n", "line 4: AttributeError: .*Dict"),
    "exit": (f"{START}  raise SystemExit(3)\n", "line 4: SystemExit: 3"),
    "depth": ("def get_config(): return get_config()\n", "line 1: RecursionError: "),
    "in what it calls": (
        f"import json\n{START}  return json.loads('{{')\n",
        "line 5: JSONDecodeError: Expecting",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_names_its_line(name, tmp_path):
    text, said = MISTAKES[name]
    path = tmp_path / "mine.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(UserError, match=said) as caught:
        cli.resolve([f"--config={path}"])

    assert f"{path}, line " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["no Python", "no name", "attribute"])
def test_a_mistake_in_the_folder_of_recipes_names_its_line(name, tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    monkeypatch.setattr(cli, "__file__", str(tmp_path / "experiments" / "cli.py"))

    test_a_mistake_names_its_line(name, tmp_path / "configs")


def test_what_our_configs_refuse_is_no_mistake_in_them():
    with pytest.raises(UserError, match="unknown argument 'zzz'") as caught:
        cli.resolve(["--config=configs/quickstart.py:zzz"])

    assert "line" not in str(caught.value)


@pytest.mark.parametrize(
    "arg", ["curate.py:inputs=a+a", "curate.py:inputs=a+", "gpt2.py:sources=en+zh+en"]
)
def test_a_name_that_is_given_twice_or_is_empty_is_refused(arg):
    with pytest.raises(UserError, match="must be different names with \\+ between them"):
        cli.resolve([f"--config=configs/{arg}"])


def test_an_error_of_unknown_kind_and_place_is_a_bug():
    bug = ZeroDivisionError("division by zero")

    assert cli.mistake(bug, ["--config=configs/quickstart.py"]) is bug


def test_an_output_needs_a_folder_that_may_be_written_to_unless_it_is_a_pipe(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: place.name == "open")
    (tmp_path / "open").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "open/file")

    for name in ("", "/dev/null", tmp_path / "pipe", tmp_path / "link", tmp_path / "open/file"):
        check_output(str(name), "none", "none")
    for name, says in {"open": "is a folder", "none/x": "make it first", "x": "may not be"}.items():
        with pytest.raises(UserError, match=says):
            check_output(str(tmp_path / name), "none", "none")


def test_an_output_does_not_replace_what_is_read(tmp_path):
    (tmp_path / "in").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    given, standard_input = os.open(tmp_path / "in", os.O_RDONLY), os.dup(0)

    with pytest.raises(UserError, match="is what is read; name another file"):
        check_output(str(tmp_path / "link"), str(tmp_path / "in"), "none")
    os.dup2(given, 0)
    try:
        with pytest.raises(UserError, match="is what is read; name another file"):
            check_output(str(tmp_path / "link"), "-", "none")
    finally:
        os.dup2(standard_input, 0)


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "checkpoints/2/host.json"])
def test_an_output_replaces_nothing_of_the_model_that_it_comes_from(tmp_path, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "run")

    for folder in (tmp_path / "run", tmp_path / "link"):
        check_output(str(path), "none", str(folder))  # New there.
    path.touch()
    for folder in (tmp_path / "run", tmp_path / "link"):
        with pytest.raises(UserError, match=r"is in checkpoint=.* already; name another"):
            check_output(str(path), "none", str(folder))
    check_output(str(path), "none", str(tmp_path / "other"))


def test_standard_output_is_written_where_no_output_is_named():
    with pytest.raises(UserError, match="leave output out to write to standard output"):
        check_output("-", "none", "none")
