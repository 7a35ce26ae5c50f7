"""Text of any language in pictures."""

import types
import warnings

import matplotlib
import pytest

from lm.results import plots
from lm.results.__main__ import main
from tests.run_folders import config, losses, write

HAN = "学习率"


def font(name):
    return types.SimpleNamespace(name=name, fname=f"{name}.ttf")


@pytest.mark.parametrize(
    ("text", "expected", "missing"),
    [
        ("rate", ["Usual"], ""),
        ("rate 学", ["Usual", "Han"], ""),
        ("学 한\n", ["Usual", "Han", "Hangul"], ""),
        ("學 한", ["Usual", "Hangul"], "學"),
    ],
)
def test_fonts_are_added_until_they_have_all_characters(monkeypatch, text, expected, missing):
    characters = {"Usual": "rate ", "Other": "r", "Han": "学", "Again": "学", "Hangul": "한"}
    monkeypatch.setattr(plots, "_installed", lambda: [*map(font, characters)])
    monkeypatch.setattr(plots, "_characters", lambda path: set(characters[path[:-4]]))
    monkeypatch.setattr(plots.font_manager, "findfont", lambda _: "Usual.ttf")
    with matplotlib.rc_context({"font.family": ["Usual"]}):
        with plots.covering(["", text]) as found:
            assert (matplotlib.rcParams["font.family"], found) == (expected, missing)
        assert matplotlib.rcParams["font.family"] == ["Usual"]


def test_a_picture_whose_text_no_font_has_is_drawn_and_said_once(tmp_path, capsys, monkeypatch):
    for seed, name in enumerate(("rate", HAN)):
        write(tmp_path / name, config(seed, note=name), losses(3.0, 2.0))
    monkeypatch.setattr(plots, "_installed", lambda: [])

    with warnings.catch_warnings(action="error"):
        assert main(["plot", str(tmp_path)]) == 0

    out, err = capsys.readouterr()
    assert (tmp_path / "plots/eval_loss.png").exists() and out.count("written to") == 1
    assert err.startswith("warning: no installed font has") and err.count("\n") == 1
    assert all(character in err for character in HAN) and "fonts-noto-cjk" in err


def test_the_fonts_of_this_machine_are_found():
    with plots.covering(["plain"]) as missing:
        assert missing == ""
    assert all(plots._characters(each.fname) for each in plots._installed())
