"""What each token of a text attends to.

Dimension key: N layers, B batch, H heads, L query length, M key length.
"""

import jax
import numpy as np

from lm.interpret.subject import Side, Subject, Text, seen, sites

_END = "/probs.out"


def attention_sites(subject: Subject, text: Text) -> dict[str, jax.ShapeDtypeStruct]:
    """Lists the sites of attention probabilities, each N x B x H x L x M."""
    found = sites(subject, text.inputs)
    return {name: shape for name, shape in found.items() if name.endswith(_END)}


def attention_maps(subject: Subject, text: Text) -> dict[str, np.ndarray]:
    """Computes the probabilities of a text: N x H x L x M, by the names of sites, without padding.

    A row of queries sums to 1; what a query does not see is exactly 0.
    """
    found = {}
    for name, probs_NBHLM in seen(subject, text.inputs, attention_sites(subject, text)).items():
        queries, keys = sides_of(text, name)
        found[name] = np.asarray(probs_NBHLM)[:, 0, :, : len(queries.ids_L), : len(keys.ids_L)]
    return found


def sides_of(text: Text, name: str) -> tuple[Side, Side]:
    """Finds the sequences of queries and of keys of a site of attention."""
    queries = text.side(name)
    return queries, text.sides["encoder/"] if "cross_attention" in name else queries
