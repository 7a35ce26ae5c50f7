"""The folder that a conversion fills: there whole, or not at all."""

import os
import subprocess
import sys

import pytest

from configs import convert as convert_config
from experiments import convert
from lm.errors import UserError
from tests.file_limits import file_limit


def test_a_target_appears_whole_and_nothing_else_does(tmp_path):
    target = tmp_path / "new" / "target"

    with convert.unfinished(target) as partial:
        partial.mkdir()
        (partial / "file").write_text("x")
        assert [path.name for path in tmp_path.iterdir()] == [".target.unfinished"]
        with pytest.raises(UserError, match="is in use by process"), convert.unfinished(target):
            pass

    assert (target / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), convert.unfinished(tmp_path / "target") as partial:
        partial.mkdir()
        raise error

    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("file", "contents", "changes"),
    [
        ("adapter_config.json", "{}", {"vocab_size": 5000}),
        ("adapter_config.json", "{}", {"adapters": True}),
        ("config.json", '{"model_type": "gpt2"}', {"base": "a"}),
        ("config.json", '{"model_type": "gpt2"}', {"adapters": True}),
        ("config.json", '{"experiment": "pretrain"}', {"vocab_size": 5000}),
        ("config.json", '{"experiment": "pretrain"}', {"base": "a"}),
        ("config.json", '{"experiment": "pretrain"}', {"allow_missing": True}),
    ],
)
def test_a_setting_of_another_direction_is_refused(tmp_path, file, contents, changes):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / file).write_text(contents)
    config = convert_config.get_config()
    config.update(source=str(tmp_path / "source"), target=str(tmp_path / "target"), **changes)

    with pytest.raises(UserError, match=f"{next(iter(changes))}=.* means nothing to source="):
        convert.run(config, None)

    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_a_lock_without_room_leaves_nothing(tmp_path):
    with pytest.raises(OSError), file_limit(0), convert.unfinished(tmp_path / "target"):
        pass

    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path):
    program = (
        "import os, pathlib, sys; from experiments import convert\n"
        "with convert.unfinished(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.mkdir(); (partial / 'old').touch(); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "target"
    done = subprocess.run([sys.executable, "-c", program, target], cwd=os.getcwd())
    assert done.returncode == -9
    assert (tmp_path / ".target.unfinished" / "partial" / "old").exists()

    with convert.unfinished(target) as partial:
        assert not partial.exists()
        partial.mkdir()

    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert not list(target.iterdir())
