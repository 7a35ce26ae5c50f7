"""Fits of L(N, D) = E + A / N^alpha + B / D^beta.

Dimension key: P points
"""

import numpy as np
import pytest

from lm.results import scaling_law

# Besiroglu et al. 2024, "Chinchilla Scaling: A replication attempt", equation 4 and table 1.
CORRECTED_CHINCHILLA = scaling_law.Law(A=482.01, B=2085.43, E=1.8172, alpha=0.3478, beta=0.3658)


def points(noise):
    """As many as Besiroglu et al. have, in about their range, with losses of the published fit."""
    rng = np.random.default_rng(0)
    num_params_P, num_tokens_P = 10 ** rng.uniform([[7.6], [8.5]], [[10.2], [11.5]], (2, 240))
    losses_P = CORRECTED_CHINCHILLA.loss(num_params_P, num_tokens_P)
    return num_params_P, num_tokens_P, losses_P * np.exp(noise * rng.standard_normal(240))


def test_the_corrected_published_fit_is_found_from_points_that_it_gives():
    np.testing.assert_allclose(scaling_law.fit(*points(0.0)), CORRECTED_CHINCHILLA, rtol=1e-6)


def test_a_few_wild_points_hardly_move_it():
    num_params_P, num_tokens_P, losses_P = points(0.0)
    losses_P[:12] *= 1.5

    law = scaling_law.fit(num_params_P, num_tokens_P, losses_P)

    np.testing.assert_allclose(law[2:], CORRECTED_CHINCHILLA[2:], rtol=0.02)


def test_intervals_are_as_wide_as_fits_to_other_noise_are_apart():
    law = scaling_law.fit(*points(0.01))
    laws = scaling_law.bootstrap(law, *points(0.01), num_samples=15, seed=0)

    # With compute C, the best number of parameters grows as C to this (eq. 4).
    exponent = lambda law: law.beta / (law.alpha + law.beta)
    exponents = list(map(exponent, laws))
    assert min(exponents) < exponent(CORRECTED_CHINCHILLA) < max(exponents)
    assert 0.003 < np.std(exponents) < 0.02


@pytest.mark.parametrize(
    ("losses", "problem"), [([3.0] * 4, "4 points"), ([3.0] * 5 + [0.0], "positive")]
)
def test_points_that_no_law_fits_are_refused(losses, problem):
    losses_P = np.array(losses)
    with pytest.raises(ValueError, match=problem):
        scaling_law.fit(1e8 + losses_P, 1e9 + losses_P, losses_P)
