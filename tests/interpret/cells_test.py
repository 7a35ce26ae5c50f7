"""Cells hold whole characters, every token once, and all of a text.

Dimension key: L tokens, C cells.
"""

import numpy as np
import pytest

from lm.interpret.cells import Cell, of_ids, of_text, over_cells
from tests.tiny_tokenizers import LOSSLESS, TEXTS, tokenizer_of


def test_parts_of_a_character_are_one_cell():
    text, tokenizer = "a 中b", tokenizer_of("bytes")
    expected = [("a", 0, 1), (" ", 1, 2), ("中", 2, 5), ("b", 5, 6)]

    cells = of_text(text, tokenizer.encode_with_offsets(text))

    assert cells == [Cell(text, first, end, False) for text, first, end in expected]
    ids = [1, *tokenizer.encode_batch([text])[0].tolist(), 2]
    special = Cell("<s>", 0, 1, True), Cell("</s>", 7, 8, True)
    inner = [Cell(text, first + 1, end + 1, False) for text, first, end in expected]
    assert of_ids(tokenizer, ids) == [special[0], *inner, special[1]]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_cells_hold_every_token_once_and_all_characters(kind):
    tokenizer = tokenizer_of(kind)
    for text in TEXTS:
        offsets = tokenizer.encode_with_offsets(text)
        cells = of_text(text, offsets, first=3)

        tokens = [j for cell in cells for j in range(cell.first, cell.end)]
        assert tokens == list(range(3, 3 + len(offsets.ids))), text
        joined = "".join(cell.before + cell.text for cell in cells)
        assert joined == text[: len(joined)] and not text[len(joined) :].strip(), text
        # No two cells share a character.
        assert all("\ufffd" not in cell.text for cell in cells), text


def test_what_bytes_spell_no_character_is_shown_all_the_same():
    tokenizer = tokenizer_of("bytes")
    ids = [3 + byte for byte in b"a\xe4\xb8b"]

    cells = of_ids(tokenizer, ids)

    assert [j for cell in cells for j in range(cell.first, cell.end)] == [0, 1, 2, 3]
    assert "\ufffd" in "".join(cell.text for cell in cells)
    # A byte that begins no character keeps no others waiting.
    cells = of_ids(tokenizer, [3 + byte for byte in b"\xffabcdefgh"])
    assert max(cell.end - cell.first for cell in cells) <= 4


def test_numbers_of_tokens_become_those_of_cells():
    cells = [Cell("a", 0, 1, False), Cell("中", 1, 4, False), Cell("b", 4, 5, False)]
    values_L = np.array([np.nan, 1.0, 2.0, 6.0, 5.0])
    values_2L = np.stack([values_L, -values_L])

    np.testing.assert_equal(over_cells(values_L, cells, how="sum", axis=0), [np.nan, 9, 5])
    np.testing.assert_equal(over_cells(values_L, cells, how="mean", axis=0), [np.nan, 3, 5])
    both = over_cells(values_2L, cells, how="sum", axis=1)
    np.testing.assert_equal(both, [[np.nan, 9, 5], [np.nan, -9, -5]])
