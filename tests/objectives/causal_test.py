import numpy as np

from lm.corpus.packing import Piece
from lm.objectives.causal import causal
from tests.tiny import rows_of


def test_causal_rows_as_a_table():
    # <s> a b </s> and <s> c, which goes on with d in another row.
    rows = rows_of([[Piece(np.array([1, 5, 6, 2]), -1), Piece(np.array([1, 7]), 8)]], 7, pad_id=0)

    batch = causal(rows, None)

    table = {
        "tokens_BL": [1, 5, 6, 2, 1, 7, 0],
        "segment_ids_BL": [1, 1, 1, 1, 2, 2, 0],
        "positions_BL": [0, 1, 2, 3, 0, 1, 0],
        "targets_BL": [5, 6, 2, 0, 7, 8, 0],
        "weights_BL": [1, 1, 1, 0, 1, 1, 0],
    }
    found = {**batch.inputs, "targets_BL": batch.targets_BL, "weights_BL": batch.weights_BL}
    for name, row in table.items():
        np.testing.assert_array_equal(found[name], [row], err_msg=name)
