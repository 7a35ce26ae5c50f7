import io
import re

import pytest
import rich.console

from lm.results import tables
from lm.results.tables import Table

TABLE = Table(
    "some runs",
    ["model.model_dim", "optimizer.name", "eval/loss", "± s.e.", "note"],
    [
        ["64", "adamw", "2.5", "±0.01", ""],
        ["1024", "[red]lion[/red]", "10.25", "", "1 NaN: 文字-長"],
    ],
    num_names=2,
)


def printed(table, width, monkeypatch):
    """On a terminal of so many columns, without colors."""
    file = io.StringIO()
    console = rich.console.Console
    on_terminal = lambda **kw: console(**kw, force_terminal=True, color_system=None)
    monkeypatch.setattr(rich.console, "Console", on_terminal)
    tables.show(table, file, width)
    return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())


def test_a_pipe_gets_aligned_text(capsys):
    tables.show(TABLE)

    assert capsys.readouterr().out.splitlines() == [
        "some runs",
        "model.model_dim  optimizer.name   eval/loss  ± s.e.  note",
        "             64  adamw                  2.5   ±0.01",
        "           1024  [red]lion[/red]      10.25          1 NaN: 文字-長",
        "",
    ]


@pytest.mark.parametrize("width", [200, 120, 80, 60, 40, 20, 8])
def test_no_width_loses_a_character_or_breaks_a_line(width, monkeypatch):
    text = printed(TABLE, width, monkeypatch)

    lines = text.splitlines()
    assert all(rich.cells.cell_len(line) <= width for line in lines)
    squeezed = re.sub(r"[\s─]", "", text)
    for row in TABLE.rows:
        for cell in row:
            assert cell.replace(" ", "") in squeezed, cell
    assert "…" not in text


def test_parts_repeat_the_names_of_their_rows(monkeypatch):
    lines = printed(TABLE, 50, monkeypatch).splitlines()

    rows = [line.split() for line in lines if "adamw" in line]
    assert [row[:2] for row in rows] == [["64", "adamw"]] * len(rows) and len(rows) > 1
    assert sum("some runs" in line for line in lines) == 1


def test_a_page_shows_text_as_it_is():
    text = tables.page(TABLE._replace(rows=[["<script>", "a&b", "1.5", "", ""]]))

    assert "<td>&lt;script&gt;</td><td>a&amp;b</td><td class=number>1.5</td>" in text
    assert "<th>model.model_dim</th>" in text and "<script>" not in text
