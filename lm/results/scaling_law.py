"""Loss as a power law of parameters and data, L(N, D) = E + A / N^alpha + B / D^beta.

Dimension key: P points, that is, trained models
"""

import itertools
from typing import NamedTuple

import numpy as np
from scipy import optimize

_DELTA = 1e-3  # Beyond which residuals of log L count linearly: Hoffmann et al. 2022, eq. 3.
_NUM_STARTS = 6  # The best ones of the grid below, which is that of the paper.
_GRID = {
    "log_a": np.arange(0.0, 26.0, 5.0),
    "log_b": np.arange(0.0, 26.0, 5.0),
    "log_e": np.arange(-1.0, 1.1, 0.5),
    "alpha": np.arange(0.0, 2.1, 0.5),
    "beta": np.arange(0.0, 2.1, 0.5),
}


class Law(NamedTuple):
    """The five numbers of L(N, D), in nats a token; N counts parameters, D tokens."""

    A: float
    B: float
    E: float
    alpha: float
    beta: float

    def loss(self, num_params_P: np.ndarray, num_tokens_P: np.ndarray) -> np.ndarray:
        """Predicts P losses from P numbers of parameters and of tokens."""
        return self.E + self.A / num_params_P**self.alpha + self.B / num_tokens_P**self.beta


def fit(num_params_P: np.ndarray, num_tokens_P: np.ndarray, losses_P: np.ndarray) -> Law:
    """Fits the law to points: Hoffmann et al. 2022, section 3.3, approach 3.

    Raises:
      ValueError: fewer points than unknowns, or a number that is not positive.
    """
    points = _points(num_params_P, num_tokens_P, losses_P)
    grid = np.array(list(itertools.product(*_GRID.values())))
    starts = grid[np.argsort([_huber(x, *points)[0] for x in grid])[:_NUM_STARTS]]
    return _law(min((_minimise(x, points) for x in starts), key=lambda found: found.fun).x)


def bootstrap(
    law: Law,
    num_params_P: np.ndarray,
    num_tokens_P: np.ndarray,
    losses_P: np.ndarray,
    *,
    num_samples: int,
    seed: int,
) -> list[Law]:
    """Fits `num_samples` laws to points drawn with replacement, each begun from the fit to all.

    Raises:
      ValueError: see `fit`.
    """
    points = _points(num_params_P, num_tokens_P, losses_P)
    start = np.array([np.log(law.A), np.log(law.B), np.log(law.E), law.alpha, law.beta])
    rng = np.random.default_rng(seed)
    laws = []
    for _ in range(num_samples):
        chosen_P = rng.integers(len(losses_P), size=len(losses_P))
        laws.append(_law(_minimise(start, [x_P[chosen_P] for x_P in points]).x))
    return laws


def _points(*arrays_P: np.ndarray) -> list[np.ndarray]:
    given = [np.asarray(x_P, np.float64) for x_P in arrays_P]
    if len(given[0]) < len(Law._fields):
        raise ValueError(f"{len(given[0])} points cannot give the {len(Law._fields)} unknowns")
    if not all(np.all(np.isfinite(x_P) & (x_P > 0)) for x_P in given):
        raise ValueError("parameters, tokens and losses must be positive")
    return [np.log(x_P) for x_P in given]


def _minimise(start: np.ndarray, points: list[np.ndarray]) -> optimize.OptimizeResult:
    return optimize.minimize(
        _huber,
        start,
        args=tuple(points),
        jac=True,
        method="L-BFGS-B",
        options=dict(maxiter=20_000, maxfun=40_000, ftol=1e-15, gtol=1e-10),
    )


def _huber(x: np.ndarray, log_n_P, log_d_P, log_loss_P) -> tuple[float, np.ndarray]:
    """Sums the Huber loss of log L(N, D) - log L; also gives its gradient by the five unknowns."""
    log_a, log_b, log_e, alpha, beta = x
    # log L(N, D) as logsumexp of the three terms' logarithms: eq. 3, whose unknowns need no bounds.
    terms = np.stack([log_a - alpha * log_n_P, log_b - beta * log_d_P, 0 * log_n_P + log_e])
    top_P = terms.max(axis=0)
    exps = np.exp(terms - top_P)  # SciPy's logsumexp takes ten times as long on so few numbers.
    residual_P = top_P + np.log(exps.sum(axis=0)) - log_loss_P
    small_P = np.abs(residual_P) <= _DELTA
    huber_P = np.where(small_P, residual_P**2 / 2, _DELTA * (np.abs(residual_P) - _DELTA / 2))
    slope_P = np.clip(residual_P, -_DELTA, _DELTA)
    of_a_P, of_b_P, of_e_P = exps / exps.sum(axis=0) * slope_P  # Logsumexp's gradient: softmax.
    of_alpha_P, of_beta_P = -of_a_P * log_n_P, -of_b_P * log_d_P
    gradient = [x_P.sum() for x_P in (of_a_P, of_b_P, of_e_P, of_alpha_P, of_beta_P)]
    # A sum, and no mean over points, which is so small that BFGS stops early (Besiroglu et al.
    # 2024, section 3).
    return float(huber_P.sum()), np.array(gradient)


def _law(x: np.ndarray) -> Law:
    return Law(*(float(v) for v in (*np.exp(x[:3]), x[3], x[4])))
