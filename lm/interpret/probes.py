"""What a linear probe reads off each layer, beside what it could only have learnt by heart.

Dimension key: N layers, W words, D model width, S labels.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import scipy.optimize
import scipy.special

from lm.errors import UserError
from lm.metrics import intervals


class Probe(NamedTuple):
    """A multinomial logistic regression."""

    kernel_DS: np.ndarray
    bias_S: np.ndarray

    def probabilities(self, x_WD: np.ndarray) -> np.ndarray:
        """Predicts W x S."""
        return scipy.special.softmax(x_WD @ self.kernel_DS + self.bias_S, axis=1)


class ProbeScores(NamedTuple):
    """Accuracies on held-out words, of a layer.

    low, high: the 95 % interval of `accuracy` (Wilson 1927).
    control: accuracy of a probe on control labels.
    """

    accuracy: float
    low: float
    high: float
    control: float

    @property
    def selectivity(self) -> float:
        """Says how much of the accuracy is not learnt by heart (Hewitt and Liang 2019, eq. 1)."""
        return self.accuracy - self.control


def fit(x_WD: np.ndarray, labels_W: np.ndarray, num_labels: int, *, inverse_l2: float) -> Probe:
    """Minimises inverse_l2 times the summed loss plus half the squared kernel, by L-BFGS.

    In float64; the same objective as scikit-learn's `LogisticRegression(C=inverse_l2)`.
    """
    x_WD = np.asarray(x_WD, np.float64)
    D, S = x_WD.shape[1], num_labels
    one_hot_WS = np.eye(S)[labels_W]

    def objective(flat):
        kernel_DS, bias_S = flat[: D * S].reshape(D, S), flat[D * S :]
        logits_WS = x_WD @ kernel_DS + bias_S
        log_z_W = scipy.special.logsumexp(logits_WS, axis=1)
        nll = log_z_W.sum() - (logits_WS * one_hot_WS).sum()
        error_WS = np.exp(logits_WS - log_z_W[:, None]) - one_hot_WS
        grad_DS = inverse_l2 * (x_WD.T @ error_WS) + kernel_DS
        grad_S = inverse_l2 * error_WS.sum(axis=0)
        value = inverse_l2 * nll + 0.5 * np.sum(kernel_DS**2)
        return value, np.concatenate([grad_DS.ravel(), grad_S])

    options = dict(maxiter=2000, maxfun=4000, ftol=1e-13, gtol=1e-8)
    found = scipy.optimize.minimize(
        objective, np.zeros((D + 1) * S), jac=True, method="L-BFGS-B", options=options
    )
    return Probe(found.x[: D * S].reshape(D, S), found.x[D * S :])


def control_labels(words: Sequence[str], shares_S: np.ndarray) -> np.ndarray:
    """Gives each kind of word a label by a hash, as often as labels are (Hewitt and Liang 2019)."""
    ends_S = np.cumsum(shares_S / shares_S.sum())
    digest = lambda word: int.from_bytes(hashlib.sha256(word.encode()).digest()[:8]) / 2**64
    at = {word: int(np.searchsorted(ends_S, digest(word), side="right")) for word in set(words)}
    return np.array([min(at[word], len(shares_S) - 1) for word in words])


def check_labels(labels: Sequence[str]) -> list[str]:
    """Lists the labels of training; raises UserError where there is nothing to tell apart."""
    found = sorted(set(labels))
    if len(found) < 2:
        raise UserError(
            f"train_file has {len(found)} label, {', '.join(found)}; a probe needs two or more"
        )
    if len(labels) < 2 * len(found):
        raise UserError(
            f"train_file has {len(labels)} words for {len(found)} labels; give at least two a label"
        )
    return found


def score(
    train_WD: np.ndarray,
    held_out_WD: np.ndarray,
    train_labels_W: np.ndarray,
    held_out_labels_W: np.ndarray,
    train_control_W: np.ndarray,
    held_out_control_W: np.ndarray,
    *,
    num_labels: int,
    inverse_l2: float,
) -> ProbeScores:
    """Trains a probe, and one of control labels, and scores both on words held out."""

    def num_right(train_W, held_out_W):
        probe = fit(train_WD, train_W, num_labels, inverse_l2=inverse_l2)
        return int(np.sum(probe.probabilities(held_out_WD).argmax(axis=1) == held_out_W))

    num = len(held_out_labels_W)
    right = num_right(train_labels_W, held_out_labels_W)
    control = num_right(train_control_W, held_out_control_W)
    return ProbeScores(right / num, *intervals.wilson(right, num), control / num)
