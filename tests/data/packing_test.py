import collections
import itertools

import numpy as np
import pytest

from lm.data.cache import decode_row, encode_row
from lm.data.packing import NO_NEXT, Piece, pack
from lm.data.rows import rows_from_pieces


def arrays(documents):
    return [np.array(document, np.int32) for document in documents]


def test_rows_are_laid_out_as_in_this_table():
    documents = arrays([[11, 12, 13, 14, 15], [21, 22], [], [31], [41, 42, 43]])

    rows = rows_from_pieces(list(pack(documents, seq_len=4)), seq_len=4, pad_id=0)

    table = {
        "tokens_BL": [[11, 12, 13, 14], [15, 21, 22, 31], [41, 42, 43, 0]],
        "next_BL": [[12, 13, 14, 15], [-1, 22, -1, -1], [42, 43, -1, -1]],
        "segment_ids_BL": [[1, 1, 1, 1], [1, 2, 2, 3], [1, 1, 1, 0]],
        "positions_BL": [[0, 1, 2, 3], [0, 0, 1, 0], [0, 1, 2, 0]],
    }
    for name, expected in table.items():
        np.testing.assert_array_equal(getattr(rows, name), expected, name)
        assert getattr(rows, name).dtype == np.int32


@pytest.mark.parametrize("seq_len", [1, 2, 7, 64])
@pytest.mark.parametrize("max_open", [1, 3, 256])
def test_every_token_and_every_prediction_is_there_exactly_once(seq_len, max_open):
    rng = np.random.default_rng(seq_len)
    documents = [rng.integers(0, 50, size=n) for n in rng.integers(0, 40, size=200)]

    packed = list(pack(documents, seq_len, max_open))
    rows = rows_from_pieces(packed, seq_len, pad_id=99)

    filled = rows.segment_ids_BL > 0
    assert sorted(rows.tokens_BL[filled]) == sorted(itertools.chain(*documents))
    pairs = collections.Counter(zip(rows.tokens_BL[filled], rows.next_BL[filled], strict=True))
    expected = collections.Counter(
        pair for d in documents if len(d) for pair in zip(d, [*d[1:], NO_NEXT], strict=True)
    )
    assert pairs == expected
    assert (rows.tokens_BL[~filled] == 99).all() and (rows.next_BL[~filled] == NO_NEXT).all()


@pytest.mark.parametrize("max_open", [1, 256])
def test_the_pieces_of_a_document_follow_one_another(max_open):
    # Each token is unique, so that a document can be put together again by following `next`.
    lengths = [5, 23, 1, 8, 16, 3, 40]
    starts = np.cumsum([0, *lengths])
    documents = [np.arange(a, b) for a, b in itertools.pairwise(starts)]

    rows = rows_from_pieces(list(pack(documents, 8, max_open)), 8, pad_id=0)

    filled = rows.segment_ids_BL > 0
    after = dict(zip(rows.tokens_BL[filled], rows.next_BL[filled], strict=True))
    for start, end in itertools.pairwise(starts):
        assert [after[i] for i in range(start, end)] == [*range(start + 1, end), NO_NEXT]


def test_segments_are_runs_and_positions_count_within_them():
    rng = np.random.default_rng(0)
    rows = rows_from_pieces(
        list(pack([np.ones(n, int) for n in rng.integers(1, 30, size=60)], 16)), 16, pad_id=0
    )
    for segments, positions in zip(rows.segment_ids_BL, rows.positions_BL, strict=True):
        runs = [(key, len(list(run))) for key, run in itertools.groupby(segments)]
        expected = [key for key in range(1, segments.max() + 1)]
        assert [key for key, _ in runs if key] == expected
        assert [key for key, _ in runs][-1] == 0 or segments.all()
        counts = [range(n) if key else [0] * n for key, n in runs]
        np.testing.assert_array_equal(positions, list(itertools.chain(*counts)))


def test_best_fit_leaves_little_empty_and_holds_few_rows():
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 100, size=3000)
    waiting = 0

    def documents():
        nonlocal waiting
        for n in lengths:
            waiting += 1
            yield np.ones(n, int)

    num_rows, most = 0, 0
    for row in pack(documents(), 100, max_open=64):
        waiting -= len(row)
        most = max(most, waiting)
        num_rows += 1

    assert 1 - lengths.sum() / (100 * num_rows) < 0.03
    assert most <= 64 * 100  # Pieces in open rows; a hundred tokens a row bound them.


@pytest.mark.parametrize("dtype", ["<u2", "<u4"])
def test_a_row_survives_its_bytes(dtype):
    top = np.iinfo(dtype).max
    row = [Piece(np.array([7, top, 9]), 4), Piece(np.array([5]), NO_NEXT)]

    back = decode_row(encode_row(row, np.dtype(dtype)), np.dtype(dtype))

    assert [(p.tokens.tolist(), p.next_token) for p in back] == [([7, top, 9], 4), ([5], NO_NEXT)]
