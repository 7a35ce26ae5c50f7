import math
from fractions import Fraction

import numpy as np
import pytest

from lm.corpus.mixture import Mixture, _num_below, multiplier, whole_counts

LANGUAGES = np.logspace(3, 9, 60)  # Tokens of 60 languages.


def languages(exponent, num_examples, seed=0):
    """Counts by weights in an order of their own, for parts of neighbours are alike."""
    weights = np.random.default_rng(seed).permutation(LANGUAGES**exponent)
    return whole_counts(weights.tolist(), num_examples)


def drawn(mixture):
    return mixture.draw(0, mixture.num_examples)


def test_whole_counts_by_largest_remainders():
    assert whole_counts([0.5, 0.3, 0.2], 8) == (4, 2, 2)
    assert whole_counts([1, 1, 1], 4) == (2, 1, 1)
    assert whole_counts([3, 0, 1], 7) == (5, 0, 2)
    assert whole_counts([1e-9, 1.0], 1000) == (0, 1000)


@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("total", [1, 59, 4096, 10**12])
def test_whole_counts_add_up_and_are_less_than_one_off(exponent, total):
    weights = (LANGUAGES**exponent).tolist()
    exact = [total * Fraction(w) / sum(map(Fraction, weights)) for w in weights]
    counts = whole_counts(weights, total)
    assert sum(counts) == total
    assert all(abs(count - part) < 1 for count, part in zip(counts, exact, strict=True))


@pytest.mark.parametrize("size", [*range(1, 200), 4096, 9973, 2**40, 10**15])
def test_a_multiplier_is_coprime_and_near_the_golden_ratio(size):
    found = multiplier(size)
    assert 0 < found <= max(size - 1, 1)
    assert math.gcd(found, size) == 1
    if size > 10**6:
        assert abs(found / size - 0.618034) < 1e-4


@pytest.mark.parametrize("modulus", [1, 2, 7, 30])
def test_numbers_below_a_bound_are_counted(modulus):
    for num in range(modulus + 1):
        values = [i * multiplier(modulus) % modulus for i in range(num)]
        for bound in range(modulus + 1):
            expected = sum(value < bound for value in values)
            assert _num_below(num, multiplier(modulus), modulus, bound) == expected


def test_the_example_of_the_docstring():
    sources, ordinals = drawn(Mixture("ab", [(2, 1), (1, 1)]))
    assert sources.tolist() == [0, 1, 0, 0, 1]
    assert ordinals.tolist() == [0, 0, 1, 2, 1]


def test_counts_are_exact_at_the_end_of_each_stage():
    counts = [languages(0.3, 5000), languages(1.0, 3000), languages(0.0, 777)]
    mixture = Mixture(map(str, range(60)), counts)
    assert mixture.num_examples == 8777
    sources, _ = drawn(mixture)
    ends = np.cumsum([5000, 3000, 777])
    for end, expected in zip(ends, np.cumsum(counts, axis=0), strict=True):
        np.testing.assert_array_equal(np.bincount(sources[:end], minlength=60), expected)
        np.testing.assert_array_equal(mixture.counts(end), expected)


# With the nearest number that is coprime 16,384 examples are 9.6 off, and 170,274 are 42.5 off.
@pytest.mark.parametrize("num_examples", [1000, 9973, 16_384, 30_000])
@pytest.mark.parametrize("exponent", [0.0, 0.3, 1.0])
def test_at_any_example_sixty_sources_are_at_most_eight_rows_off(num_examples, exponent):
    counts = np.array(languages(exponent, num_examples))
    sources, _ = drawn(Mixture(map(str, range(60)), [counts]))
    seen = np.cumsum(sources[:, None] == np.arange(60), axis=0)
    even = np.arange(1, num_examples + 1)[:, None] * (counts / num_examples)
    assert np.abs(seen - even).max() <= 8


def test_ordinals_count_from_0_without_a_gap():
    mixture = Mixture(map(str, range(60)), [languages(0.3, 4000), languages(1.0, 1000)])
    sources, ordinals = drawn(mixture)
    for source in range(60):
        own = ordinals[sources == source]
        np.testing.assert_array_equal(own, np.arange(len(own)))


def test_counts_never_fall():
    mixture = Mixture("abc", [(50, 1, 9), (0, 7, 7)])
    counts = np.stack([mixture.counts(end) for end in range(mixture.num_examples + 1)])
    steps = np.diff(counts, axis=0)
    assert (steps >= 0).all() and (steps.sum(axis=1) == 1).all()


def test_an_example_does_not_depend_on_where_one_begins():
    mixture = Mixture(map(str, range(60)), [languages(0.3, 300), languages(1.0, 200)])
    sources, ordinals = drawn(mixture)
    for start, end in [(0, 1), (7, 7), (250, 350), (299, 301), (499, 500)]:
        part = mixture.draw(start, end)
        np.testing.assert_array_equal(part[0], sources[start:end])
        np.testing.assert_array_equal(part[1], ordinals[start:end])


def test_one_source_comes_in_order():
    sources, ordinals = drawn(Mixture("a", [(40,), (60,)]))
    assert not sources.any()
    np.testing.assert_array_equal(ordinals, np.arange(100))


def test_a_source_without_weight_is_never_drawn():
    sources, _ = drawn(Mixture("abcd", [(0, 5, 0, 3)]))
    assert np.bincount(sources, minlength=4).tolist() == [0, 5, 0, 3]


def test_an_order_never_changes_between_versions():
    # Golden: a run that is resumed by a later version must see the rows that it has not yet seen.
    sources, ordinals = drawn(Mixture("abc", [(3, 4, 5)]))
    assert sources.tolist() == [0, 1, 2, 1, 2, 0, 1, 2, 1, 2, 0, 2]
    assert ordinals.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 2, 4]
    assert multiplier(4_800_000) == 2_966_551


def test_examples_of_a_long_run_are_exact():
    mixture = Mixture("ab", [(2**60, 2**61)])
    at = 2**60 + 12345
    sources, ordinals = mixture.draw(at, at + 3)
    assert (ordinals < mixture.counts(at + 3)[sources]).all()
    assert mixture.counts(at).sum() == at
    assert abs(mixture.counts(at)[0] - at / 3) < 8
