"""Exact and near-duplicates: which documents stay, whatever the order and the shards they come in.

A document is dropped only if it is a copy of one that stays, or as similar to one as the threshold
says, computed exactly. So no chain A~B~C drops a C that is unlike A, and each that is dropped can
name the one that stands for it.

The steps, each a function over a sorted stream, so that no step holds more than its buckets:

1. Exact copies: of equal `records.digest`, one goes on.
2. `sketch` of each document: its rank and band keys.
3. (key, rank) of all, sorted -> `memberships`: who shares a bucket, a band of MinHash, with others.
4. `components` of these: which documents can have to do with each other at all.
5. Memberships by rank, grouped, with `ngrams` of the text -> `survivors`, all in the order of rank,
   or each component alone.
"""

import collections
import dataclasses
import itertools
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import scipy.sparse

from lm.curation import minhash
from lm.curation.ngram_hashes import ngram_set
from lm.curation.records import digest
from lm.errors import UserError


@dataclasses.dataclass(frozen=True)
class NearDuplicates:
    """What is a near-duplicate, and how hard it is looked for.

    ngram: units of an n-gram.
    num_bands, band_rows: of MinHash; documents that share no band are never compared.
    threshold: the similarity from which on a document is dropped.
    measure: "jaccard": the share of n-grams of both that both have; "containment": the share of the
      dropped one's that the kept one has, so that an excerpt is a duplicate, too.
    max_compared: of the kept documents of a bucket, how many others are compared with; a bound on
      what a template costs that many documents fill in.
    """

    ngram: int
    num_bands: int
    band_rows: int
    threshold: float
    measure: str
    max_compared: int

    def __post_init__(self):
        """Raises UserError for a value that is out of range."""
        for name in ("ngram", "num_bands", "band_rows", "max_compared"):
            if getattr(self, name) < 1:
                raise UserError(f"duplicates.{name}={getattr(self, name)} must be at least 1")
        if not 0 < self.threshold <= 1:
            raise UserError(f"duplicates.threshold={self.threshold} must be above 0, at most 1")
        if self.measure not in MEASURES:
            raise UserError(
                f"duplicates.measure={self.measure!r} is unknown; there are {', '.join(MEASURES)}"
            )


def _jaccard(num_shared: int, num_kept: int, num_other: int) -> float:
    return num_shared / (num_kept + num_other - num_shared)


def _containment(num_shared: int, num_kept: int, num_other: int) -> float:
    return num_shared / num_other


# How similar a document is to a kept one that ranks before it, from numbers of n-grams.
MEASURES: dict[str, Callable[[int, int, int], float]] = {
    "jaccard": _jaccard,
    "containment": _containment,
}


def hash_of(rank: str) -> str:
    """Gives the content hash that a rank ends in."""
    return rank[8:]


class Sketch(NamedTuple):
    """What decides which documents a document is compared with.

    rank: its place in the order in which documents are kept, most n-grams first and then by content
      hash; a string, to be sorted as one. No two texts share one. See `hash_of`.
    keys: hexadecimal, one a band, of which equal ones are a bucket; none of a text without units.
    """

    rank: str
    keys: list[str]


def ngrams(text: str, settings: NearDuplicates) -> np.ndarray:
    """Gives what documents are compared by; see `ngram_hashes.ngram_set`."""
    return ngram_set(text, settings.ngram)


def sketch(text: str, settings: NearDuplicates) -> Sketch:
    """Gives the sketch of a text, which depends on nothing else."""
    ngrams_G = ngrams(text, settings)
    # The most first, as strings are sorted. It is by n-grams, not characters: only so can no text
    # that is much shorter than a kept one be similar to it.
    rank = f"{2**32 - 1 - len(ngrams_G):08x}{digest(text)}"
    if not len(ngrams_G):
        return Sketch(rank, [])
    signature_H = minhash.signature(ngrams_G, settings.num_bands * settings.band_rows)
    keys = minhash.band_keys(signature_H, settings.num_bands).tolist()
    return Sketch(rank, [f"{key:016x}" for key in keys])


class Membership(NamedTuple):
    """A document in a bucket with others; `first` and `is_last` are of the bucket, by rank."""

    rank: str
    key: str
    is_last: bool
    first: str


def memberships(keys: Iterable[tuple[str, str]]) -> Iterator[Membership]:
    """Yields who is in a bucket that is not theirs alone; holds one document at a time.

    [("07", "a"), ("1c", "a"), ("1c", "b")] -> a and b are in "1c"; a is the first, b the last.

    Args:
      keys: (key, rank) of all sketches, sorted.
    """
    bucket = first = ""
    for (key, rank), following in _with_next(keys):
        if key != bucket:
            bucket, first = key, rank
        is_last = following is None or following[0] != key
        if not is_last or rank != first:
            yield Membership(rank, key, is_last, first)


def _with_next(items):
    first, second = itertools.tee(items)
    return itertools.zip_longest(first, itertools.islice(second, 1, None))


def components(links: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yields each rank and the component it is in, named by the content hash of its first document.

    Documents in different components share no bucket, however many buckets lie between. This step
    alone holds something of every document that shares a bucket: 40 bytes of each link but those
    that repeat one of the same document, and for a moment six times as much.

    Args:
      links: (rank, first of a bucket) of each membership; those of a document one after the other.
    """
    grouped = itertools.groupby(links, key=operator.itemgetter(0))
    edges = np.fromiter(
        (
            (bytes.fromhex(rank), bytes.fromhex(first))
            for of, group in grouped
            for rank, first in {*group} - {(of, of)}
        ),
        dtype=[("rank", _RANK), ("first", _RANK)],
    )
    if not len(edges):
        return
    ends = np.concatenate([edges["rank"], edges["first"]])
    del edges
    ranks, ends = np.unique(ends, return_inverse=True)
    graph = scipy.sparse.coo_array(
        (np.ones(len(ends) // 2, np.int8), np.split(ends, 2)), shape=(len(ranks), len(ranks))
    )
    _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
    _, firsts = np.unique(labels, return_index=True)  # Ranks are sorted.
    hexadecimal = lambda rank: rank.ljust(_RANK.itemsize, b"\0").hex()
    for rank, label in zip(ranks, labels, strict=True):
        yield hexadecimal(rank), hash_of(hexadecimal(ranks[firsts[label]]))


_RANK = np.dtype("S20")  # In bytes; NumPy takes zeros off the end.


class Contested(NamedTuple):
    """A document that shares buckets: key and `is_last` of each, and its `ngrams`."""

    rank: str
    buckets: Sequence[tuple[str, bool]]
    ngrams_G: np.ndarray


class Decision(NamedTuple):
    """What becomes of a contested document.

    of: the rank of the kept document that it is similar to; "" if it is kept itself.
    similarity: to that one; 0 if it is kept.
    is_compared: with all kept documents of its buckets that it could be similar to. One that is
      dropped always is. One that is not is kept, and is to be counted.
    """

    rank: str
    of: str
    similarity: float
    is_compared: bool


def survivors(contested: Iterable[Contested], settings: NearDuplicates) -> Iterator[Decision]:
    """Decides for one document after the other, in the order of rank, whether it is kept.

    It is dropped if it is similar to a kept one that shares a bucket, and names the first such. At
    most `settings.max_compared` kept ones of a bucket are compared with.

    Args:
      contested: sorted by rank; of all documents, or of one component after the other.
      settings: as the sketches were made with.
    """
    buckets: dict[str, _Bucket] = collections.defaultdict(_Bucket)
    for document in contested:
        mine = [buckets[key] for key, _ in document.buckets]
        if settings.measure == "jaccard":
            for bucket in mine:
                bucket.let_go(len(document.ngrams_G), settings.threshold)
        decision = _first_similar(document, mine, settings)
        if decision is None:
            is_compared = not any(bucket.left_out for bucket in mine)
            decision = Decision(document.rank, "", 0.0, is_compared)
            for bucket in mine:
                bucket.add(document, settings.max_compared)
        for key, is_last in document.buckets:
            if is_last:
                del buckets[key]
        yield decision


def _first_similar(
    document: Contested, buckets: Iterable["_Bucket"], settings: NearDuplicates
) -> Decision | None:
    kept = {rank: ngrams_G for bucket in buckets for rank, ngrams_G in bucket.kept}
    for rank in sorted(kept):  # One may be in many of the buckets.
        shared_G = np.intersect1d(kept[rank], document.ngrams_G, assume_unique=True)
        similarity = MEASURES[settings.measure](
            len(shared_G), len(kept[rank]), len(document.ngrams_G)
        )
        if similarity >= settings.threshold:
            return Decision(document.rank, rank, similarity, True)
    return None


class _Bucket:
    """Documents of a bucket that were kept and that others can be similar to, longest first."""

    def __init__(self):
        self.kept: collections.deque[tuple[str, np.ndarray]] = collections.deque()
        self.left_out = 0  # n-grams of the last one that found no room; 0: there was none.

    def let_go(self, size: int, threshold: float) -> None:
        """Forgets what is too long for the next document, and so for all that come after it."""
        while self.kept and size / len(self.kept[0][1]) < threshold:
            self.kept.popleft()
        if self.left_out and size / self.left_out < threshold:
            self.left_out = 0

    def add(self, document: Contested, max_kept: int) -> None:
        if len(self.kept) < max_kept:
            self.kept.append((document.rank, document.ngrams_G))
        else:
            self.left_out = len(document.ngrams_G)
