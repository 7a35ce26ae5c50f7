"""The table of a sweep as a terminal gets it."""

import io
import re

import ml_collections
import pytest
import rich.console

from experiments.sweeps import status_table
from experiments.sweeps.plan import PlannedRun

NAMES = {
    "reordering": ("a\u202egnp.exe", "a\\u202egnp.exe"),
    "isolating": ("\u2067x\u2069", "\\u2067x\\u2069"),
    "moving": ("a\x1b[2Jb", "a\\x1b[2Jb"),
    "ringing": ("a\x07b", "a\\x07b"),
    "marked up": ("a[red]b[/red]", "a[red]b[/red]"),
    "of two lines": ("a\u2028b", "a b"),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_and_values_move_and_reorder_nothing_on_a_terminal(tmp_path, kind):
    text, shown = NAMES[kind]
    written = io.StringIO()
    console = rich.console.Console(file=written, force_terminal=True, width=150, height=40)
    run = PlannedRun(text, tmp_path / "run", {"data.train": text}, ml_collections.ConfigDict(), ())
    table = status_table.StatusTable(console, {"waiting": 1})

    with table.live:
        table.started(run, "cpu 0")
        table.read()
        table.ended(run, "failed", f"error: {text}")

    # What rich itself writes: colours, and where its table begins.
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", written.getvalue())
    assert not set(plain) & {*"\u202e\u2067\u2069\u2028\x07\x1b"}
    assert plain.count(shown) >= 6  # Its name and value: in the table, and in two lines.
    assert "\x1b[2J" not in written.getvalue() and "\x1b[31m" not in written.getvalue()
