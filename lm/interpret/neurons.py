"""What the neurons of MLPs do over many texts.

Dimension key: N layers, B batch, L length, F neurons of a layer, K kept places.
"""

from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from lm.interpret.subject import Subject, Text, seen, sites

_KEPT = 5


class NeuronStatistics(NamedTuple):
    """Sums over tokens, which add up over texts, and where each neuron was the highest.

    values_NFK: the highest activations, falling; -inf where there are fewer tokens.
    text_NFK, position_NFK: where they were.
    """

    num_tokens: int
    sum_NF: np.ndarray
    num_zero_NF: np.ndarray  # Tokens at which it was 0 or below.
    values_NFK: np.ndarray
    text_NFK: np.ndarray
    position_NFK: np.ndarray

    def __add__(self, other: "NeuronStatistics") -> "NeuronStatistics":
        """Joins the statistics of other texts; what is equally high stays in order."""
        joined = [np.concatenate(pair, axis=2) for pair in zip(self[3:], other[3:], strict=True)]
        order_NFK = np.argsort(-joined[0], axis=2, kind="stable")[:, :, :_KEPT]
        kept = (np.take_along_axis(x, order_NFK, axis=2) for x in joined)
        return NeuronStatistics(*(a + b for a, b in zip(self[:3], other[:3], strict=True)), *kept)


def neuron_sites(subject: Subject, text: Text) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists the sites of neurons, behind the activation of each MLP: N x B x L x F."""
    found = sites(subject, text.inputs)
    return {name: shape for name, shape in found.items() if name.endswith("mlp/out.in")}


def neuron_statistics(
    subject: Subject, texts: Iterable[tuple[int, Text]]
) -> dict[str, NeuronStatistics]:
    """Adds up the statistics of texts by the names of sites; each text has the index given."""
    totals: dict[str, NeuronStatistics] = {}
    for index, text in texts:
        for name, x_NBLF in seen(subject, text.inputs, neuron_sites(subject, text)).items():
            length = len(text.side(name).ids_L)
            new = _of_text(np.asarray(x_NBLF)[:, 0, :length], index)
            totals[name] = totals[name] + new if name in totals else new
    return totals


def _of_text(x_NLF: np.ndarray, index: int) -> NeuronStatistics:
    x_NFL = x_NLF.astype(np.float64).transpose(0, 2, 1)
    order_NFK = np.argsort(-x_NFL, axis=2, kind="stable")[:, :, :_KEPT]
    fill = ((0, 0), (0, 0), (0, _KEPT - order_NFK.shape[2]))
    values_NFK = np.pad(np.take_along_axis(x_NFL, order_NFK, axis=2), fill, constant_values=-np.inf)
    return NeuronStatistics(
        x_NLF.shape[1],
        x_NFL.sum(axis=2),
        (x_NFL <= 0).sum(axis=2),
        values_NFK,
        np.full(values_NFK.shape, index),
        np.pad(order_NFK, fill),
    )
