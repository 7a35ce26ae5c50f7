import math

import pytest

from lm.train.early_stopping import EarlyStopping, ranked

VALUES = [(10, 0.5), (20, math.nan), (30, 0.7), (40, 0.5), (50, 0.7)]


@pytest.mark.parametrize(
    ("mode", "steps"), [("min", [10, 40, 30, 50, 20]), ("max", [30, 50, 10, 40, 20])]
)
def test_the_better_comes_first_the_earlier_of_equals_and_nan_last(mode, steps):
    assert ranked(VALUES, mode) == steps


@pytest.mark.parametrize(
    ("values", "patience", "over"),
    [
        ([3, 2, 1], 1, [False, False, False]),
        ([1, 2, 3], 1, [False, True, True]),
        ([1, 2, 0, 1, 1], 2, [False, False, False, False, True]),
        ([1, 1, 1], 2, [False, False, True]),
        ([1, math.nan], 1, [False, True]),
        ([1, 2, 3], 0, [False, False, False]),
    ],
)
def test_it_is_over_when_the_best_is_too_long_ago(values, patience, over):
    history = EarlyStopping([], mode="min", patience=patience)

    seen = []
    for step, value in enumerate(values):
        history.add(step, value)
        seen.append(history.is_over())
    assert seen == over
    assert EarlyStopping(history.values, mode="min", patience=patience).is_over() == over[-1]
