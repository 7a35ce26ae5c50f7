"""Gives rows to new tokens: of embeddings, of outputs that are not tied to them, and of biases.

Dimension key:
  D model width    T new tokens    V old tokens
"""

from collections.abc import Callable, Sequence

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from scipy import sparse

from lm.models.parameters import TABLES, Params

# (path, the rows of old tokens, V x D or V) -> those of new tokens, T x D or T.
Rows = Callable[[tuple[str, ...], np.ndarray], np.ndarray]


def grow(params: Params, rows_of: Rows, num_old: int, num_new: int, size: int) -> Params:
    """Puts rows of new tokens behind those of the old ones, in each table of the vocabulary.

    A table may hold rows that no token uses, for a size that devices can divide. New tokens take
    those first; what then is left of them stays as it is, and more are the mean of the old rows.

    Args:
      params: of a model.
      rows_of: makes new rows.
      num_old: tokens so far, V.
      num_new: tokens to come, T.
      size: rows of the tables made; at least those that there are, and V + T.
    """

    def grown(path, x):
        if path[-1] not in TABLES:
            return x
        old = np.asarray(x[:num_old])
        new = np.asarray(rows_of(path, old), x.dtype)
        assert new.shape == (num_new, *x.shape[1:]), (path, new.shape)
        unused = np.asarray(x[num_old + num_new :])
        num_more = size - num_old - num_new - len(unused)
        more = np.broadcast_to(old.mean(axis=0, dtype=np.float64), (num_more, *x.shape[1:]))
        return np.concatenate([old, new, unused, more.astype(x.dtype)])

    return unflatten_dict({path: grown(path, x) for path, x in flatten_dict(params).items()})


def combining(weights_TV: sparse.csr_array) -> Rows:
    """Makes new rows that are weighted sums of old ones."""
    weights_TV = weights_TV.astype(np.float32)  # Or all of a table would become float64.
    return lambda path, old: weights_TV @ old


def mean_of_pieces(old_ids: Sequence[Sequence[int]], num_old: int) -> sparse.csr_array:
    """Weights for a row that is the mean of the rows of the old tokens in a new one's place.

    [[1, 2], [0]], 3 old tokens    0   1/2  1/2
                                   1   0    0
    """
    lengths = np.array([len(ids) for ids in old_ids])
    at = np.repeat(np.arange(len(old_ids)), lengths), np.concatenate(old_ids)
    # A token that is there twice counts twice: entries of one place add up.
    values = np.repeat(1 / lengths, lengths)
    return sparse.coo_array((values, at), shape=(len(old_ids), num_old)).tocsr()


def mean(num_new: int) -> Rows:
    """Makes rows that are the mean of all old ones (Hewitt 2021)."""
    return lambda path, old: np.broadcast_to(
        old.mean(axis=0, dtype=np.float64), (num_new, *old.shape[1:])
    )


def focus(
    vectors: np.ndarray, num_old: int, otherwise: sparse.csr_array, *, block: int = 1024
) -> sparse.csr_array:
    """Weights by similarity to old tokens, as FOCUS has them (Dobler & de Melo 2023, section 3).

    A new token's weights are the sparsemax of its cosines with all old tokens whose vector is
    known, so that few of them are not 0.

    Args:
      vectors: of all tokens, old ones first, V + T x any width; 0 for a token that is not known.
      num_old: V.
      otherwise: the weights of a new token that is not known, or where no old token is, T x V.
      block: new tokens at a time.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
    known = np.flatnonzero(norms[:num_old, 0])
    rows = []
    for start in range(num_old, len(unit), block):
        new = unit[start : start + block]
        if len(known):
            weights = sparsemax(new @ unit[known].T)
            at_row, at_known = np.nonzero(weights)
            at = at_row, known[at_known]
            found = sparse.coo_array(
                (weights[at_row, at_known], at), shape=(len(new), num_old)
            ).tocsr()
        else:
            found = sparse.csr_array((len(new), num_old))
        is_known = np.any(new, axis=1) & bool(len(known))
        other = otherwise[start - num_old : start - num_old + len(new)]
        pick = lambda mask, x: sparse.diags_array(mask.astype(np.float64)) @ x
        rows.append(pick(is_known, found) + pick(~is_known, other))
    return sparse.vstack(rows).tocsr()


def sparsemax(scores: np.ndarray) -> np.ndarray:
    """Projects each row onto the simplex (Martins & Astudillo 2016, algorithm 1).

    [[1.0, 0.8, -1.0]] -> [[0.6, 0.4, 0.0]]
    """
    ordered = -np.sort(-scores, axis=1)
    sums = np.cumsum(ordered, axis=1)
    counts = np.arange(1, scores.shape[1] + 1)
    support = np.sum(1 + counts * ordered > sums, axis=1)
    threshold = (np.take_along_axis(sums, support[:, None] - 1, axis=1) - 1) / support[:, None]
    return np.maximum(scores - threshold, 0)
