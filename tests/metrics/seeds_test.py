import itertools

import pytest
import scipy.stats

from lm.metrics.seed_average import over_runs


def test_the_error_is_that_of_scipy():
    values = [0.91, 0.87, 0.93, 0.90]
    mean, error = over_runs(values)
    assert mean == pytest.approx(sum(values) / 4)
    assert error == pytest.approx(scipy.stats.sem(values))


def test_one_run_has_no_error():
    assert over_runs([0.5]) == (0.5, None)


def test_the_order_of_runs_changes_no_bit():
    assert len({over_runs(values) for values in itertools.permutations([0.1, 0.2, 0.3, 0.7])}) == 1
