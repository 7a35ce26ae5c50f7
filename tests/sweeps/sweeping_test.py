"""The language of sweeps, by literal tables."""

import math

import pytest

from configs import sweeping
from configs.sweeping import grid, integers, log_uniform, product, seeds, uniform, zipped

TABLES = {
    "grid": (
        grid({"a": [1, 2], "b": [3, 4]}),
        [{"a": 1, "b": 3}, {"a": 1, "b": 4}, {"a": 2, "b": 3}, {"a": 2, "b": 4}],
    ),
    "grid of nothing": (grid({"a": []}), []),
    "zipped": (zipped({"a": [1, 2], "b": [3, 4]}), [{"a": 1, "b": 3}, {"a": 2, "b": 4}]),
    "seeds": (seeds(2), [{"seed": 0}, {"seed": 1}]),
    "later seeds": (seeds(2, first=5), [{"seed": 5}, {"seed": 6}]),
    "product": (
        product(zipped({"a": [1, 2]}), seeds(2)),
        [{"a": 1, "seed": 0}, {"a": 1, "seed": 1}, {"a": 2, "seed": 0}, {"a": 2, "seed": 1}],
    ),
    "arguments of both": (
        product([{"arg": "size=small"}], [{"arg": "debug", "a": 1}]),
        [{"arg": "size=small,debug", "a": 1}],
    ),
    "an iterator": (
        product(iter(seeds(1)), iter([{}, {"a": 1}])),
        [{"seed": 0}, {"seed": 0, "a": 1}],
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_sweep_is_a_list_of_overrides(name):
    found, expected = TABLES[name]

    assert found == expected
    assert [list(one) for one in found] == [list(one) for one in expected]


SPACE = {
    "rate": log_uniform(1e-4, 1e-1),
    "share": uniform(0.25, 0.5),
    "layers": integers(1, 3),
    "name": ["adamw", "lion"],
}


def test_draws_lie_in_their_distributions_and_begin_alike():
    drawn = sweeping.random(SPACE, num=400, seed=0)

    assert sweeping.random(SPACE, num=9, seed=0) == drawn[:9]
    assert sweeping.random(SPACE, num=9, seed=1) != drawn[:9]
    assert all(1e-4 <= one["rate"] <= 1e-1 and 0.25 <= one["share"] <= 0.5 for one in drawn)
    assert {one["layers"] for one in drawn} == {1, 2, 3}
    assert {one["name"] for one in drawn} == {"adamw", "lion"}
    middle = sum(math.log10(one["rate"]) for one in drawn) / len(drawn)
    assert middle == pytest.approx(-2.5, abs=0.2)  # Its standard error is 0.04.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zipped({"a": [1], "b": [1, 2]}), "'b': 2"),
        (lambda: product([{"a": 1}], [{"a": 2}]), "a is set to 1 and to 2"),
        (lambda: product(seeds(1), sweeping.search(SPACE, num_trials=1)), "by itself"),
        (lambda: log_uniform(0.0, 1.0), "positive"),
        (lambda: uniform(2.0, 1.0), "below"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
