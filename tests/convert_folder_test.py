"""The folder that a conversion fills: there whole, or not at all."""

import os
import subprocess
import sys

import pytest

from experiments import convert
from lm.errors import UserError
from tests.file_limits import file_limit


def test_a_target_appears_whole_and_nothing_else_does(tmp_path):
    target = tmp_path / "new" / "target"

    with convert._unfinished(target) as partial:
        partial.mkdir()
        (partial / "file").write_text("x")
        assert [path.name for path in tmp_path.iterdir()] == [".target.unfinished"]
        with pytest.raises(UserError, match="is in use by process"), convert._unfinished(target):
            pass

    assert (target / "file").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_failure_leaves_nothing(tmp_path, error):
    with pytest.raises(error), convert._unfinished(tmp_path / "target") as partial:
        partial.mkdir()
        raise error

    assert not list(tmp_path.iterdir())


def test_a_lock_without_room_leaves_nothing(tmp_path):
    with pytest.raises(OSError), file_limit(0), convert._unfinished(tmp_path / "target"):
        pass

    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_is_removed_at_the_next_start(tmp_path):
    program = (
        "import os, pathlib, sys; from experiments import convert\n"
        "with convert._unfinished(pathlib.Path(sys.argv[1])) as partial:\n"
        "    partial.mkdir(); (partial / 'old').touch(); os.kill(os.getpid(), 9)"
    )
    target = tmp_path / "target"
    done = subprocess.run([sys.executable, "-c", program, target], cwd=os.getcwd())
    assert done.returncode == -9
    assert (tmp_path / ".target.unfinished" / "partial" / "old").exists()

    with convert._unfinished(target) as partial:
        assert not partial.exists()
        partial.mkdir()

    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert not list(target.iterdir())
