import jax.numpy as jnp
import numpy as np
import pytest

from lm.tasks.answering import best_spans


@pytest.mark.parametrize(("length", "max_len"), [(9, 3), (5, 8), (1, 1)])
def test_the_best_spans_are_those_of_a_search_through_all(length, max_len):
    rng = np.random.default_rng(0)
    start_BL, end_BL = rng.standard_normal((2, 4, length)).astype(np.float32)
    start_BL[1, :2] = end_BL[1, :2] = -np.inf  # Not in the context.

    found = best_spans(jnp.asarray(start_BL), jnp.asarray(end_BL), max_len=max_len, num=6)

    for b in range(4):
        spans = [
            (start_BL[b, i] + end_BL[b, j], i, j)
            for i in range(length)
            for j in range(i, min(i + max_len, length))
            if np.isfinite(start_BL[b, i] + end_BL[b, j])
        ]
        best = sorted(spans, reverse=True)[:6]
        rows = zip(
            *(np.asarray(found[k][b]) for k in ("score_BA", "start_BA", "end_BA")), strict=True
        )
        ours = [row for row in rows if np.isfinite(row[0])]
        assert [tuple(row[1:]) for row in ours] == [span[1:] for span in best]
        np.testing.assert_allclose([row[0] for row in ours], [span[0] for span in best], rtol=1e-6)
