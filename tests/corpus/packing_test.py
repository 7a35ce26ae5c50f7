import collections
import itertools

import numpy as np
import pytest

from lm.corpus.packed_rows import decode_row, encode_row, token_dtype
from lm.corpus.packing import NO_NEXT, Piece, pack
from tests.tiny import rows_of


def arrays(documents):
    return [np.array(document, np.int32) for document in documents]


def whole(documents):
    """Documents of one part each."""
    return ([document] for document in documents)


def test_rows_are_laid_out_as_in_this_table():
    documents = arrays([[11, 12, 13, 14, 15], [21, 22], [], [31], [41, 42, 43]])

    rows = rows_of(list(pack(whole(documents), seq_len=4)), seq_len=4, pad_id=0)

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

    packed = list(pack(whole(documents), seq_len, max_open))
    rows = rows_of(packed, seq_len, pad_id=99)

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

    rows = rows_of(list(pack(whole(documents), 8, max_open)), 8, pad_id=0)

    filled = rows.segment_ids_BL > 0
    after = dict(zip(rows.tokens_BL[filled], rows.next_BL[filled], strict=True))
    for start, end in itertools.pairwise(starts):
        assert [after[i] for i in range(start, end)] == [*range(start + 1, end), NO_NEXT]


def test_segments_are_runs_and_positions_count_within_them():
    rng = np.random.default_rng(0)
    rows = rows_of(
        list(pack(whole(np.ones(n, int) for n in rng.integers(1, 30, size=60)), 16)), 16, pad_id=0
    )
    for segments, positions in zip(rows.segment_ids_BL, rows.positions_BL, strict=True):
        runs = [(key, len(list(run))) for key, run in itertools.groupby(segments)]
        expected = [key for key in range(1, segments.max() + 1)]
        assert [key for key, _ in runs if key] == expected
        assert [key for key, _ in runs][-1] == 0 or segments.all()
        counts = [range(n) if key else [0] * n for key, n in runs]
        np.testing.assert_array_equal(positions, list(itertools.chain(*counts)))


def test_best_fit_leaves_little_empty():
    lengths = np.random.default_rng(0).integers(1, 100, size=3000)
    num_rows = len(list(pack(whole(np.ones(n, int) for n in lengths), 100, max_open=64)))
    assert 1 - lengths.sum() / (100 * num_rows) < 0.03


def test_few_rows_wait_however_long_the_corpus():
    given = itertools.count()
    documents = (np.ones(60, int) for _ in zip(range(1000), given, strict=False))  # No two fit.
    for taken, _ in enumerate(pack(whole(documents), 100, max_open=8)):
        if taken == 500:
            break
    assert next(given) - taken <= 8 + 2


@pytest.mark.parametrize("vocab_size, num_bytes", [(300, 2), (2**16, 2), (2**16 + 1, 4)])
def test_a_row_survives_its_bytes(vocab_size, num_bytes):
    dtype, top = token_dtype(vocab_size), vocab_size - 1
    row = [Piece(np.array([7, top, 9]), 4), Piece(np.array([5]), NO_NEXT)]

    back = decode_row(encode_row(row, dtype), dtype)

    assert dtype.itemsize == num_bytes
    assert [(p.tokens.tolist(), p.next_token) for p in back] == [([7, top, 9], 4), ([5], NO_NEXT)]


@pytest.mark.parametrize("seq_len", [1, 3, 16])
def test_rows_do_not_tell_in_how_many_parts_a_document_came(seq_len):
    rng = np.random.default_rng(seq_len)
    documents = [rng.integers(0, 50, size=n) for n in rng.integers(0, 40, size=60)]
    in_parts = [np.array_split(document, rng.integers(1, 6)) for document in documents]

    rows = [list(pack(way, seq_len)) for way in (whole(documents), in_parts)]

    for one, other in zip(*rows, strict=True):
        for piece, same in zip(one, other, strict=True):
            np.testing.assert_array_equal(piece.tokens, same.tokens)
            assert piece.next_token == same.next_token
