"""The tests that docs/serving.md names are there."""

import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]


def test_what_the_tables_name_is_there():
    text = (ROOT / "docs" / "serving.md").read_text().partition("## Checks")[2]
    tests = {path.name: path for path in (ROOT / "tests").rglob("*_test.py")}
    files = {name.rpartition("/")[2] for name in re.findall(r"`([\w/]+_test\.py)`", text)}
    named = re.findall(r"`((?:[a-z0-9]+_){3,}[a-z0-9]+)`", text)
    defined = "".join(tests[name].read_text() for name in files)

    assert len(named) > 30
    assert not [name for name in named if f"def test_{name}(" not in defined]
