"""What becomes of duplicates by the steps of `duplicates` one after the other, all in memory."""

import collections
import itertools
from typing import NamedTuple

from lm.curation.duplicates import (
    Contested,
    Decision,
    NearDuplicates,
    hash_of,
    memberships,
    ngrams,
    sketch,
    survivors,
)
from lm.curation.records import digest


class Fate(NamedTuple):
    """What becomes of a document.

    of: the name of the kept document that stands for it; "" if it is kept itself.
    reason: "exact" or "near"; "" if it is kept.
    similarity: to that one; of copies of a near-duplicate, the near-duplicate's.
    copies: how many documents a kept one stands for, itself among them; 0 of others.
    is_compared: see `Decision`.
    """

    of: str = ""
    reason: str = ""
    similarity: float = 0.0
    copies: int = 0
    is_compared: bool = True


def find(documents: dict[str, str], settings: NearDuplicates) -> dict[str, Fate]:
    """Decides for documents that memory holds; name -> text becomes name -> fate.

    {"a": "one two three", "b": "One, two, three!", "c": "one two three"} -> a stands for three, or
    b does, as their hashes will; b is near to a, or a and c to b.
    """
    names: dict[str, str] = {}  # The least name of each text.
    for name in sorted(documents):
        names.setdefault(digest(documents[name]), name)
    sketches = (sketch(documents[name], settings) for name in names.values())
    found = list(memberships(sorted((key, s.rank) for s in sketches for key in s.keys)))
    by_rank = itertools.groupby(sorted(found), key=lambda membership: membership.rank)
    contested = (
        Contested(
            rank,
            [(each.key, each.is_last) for each in group],
            ngrams(documents[names[hash_of(rank)]], settings),
        )
        for rank, group in by_rank
    )
    decisions = {hash_of(decision.rank): decision for decision in survivors(contested, settings)}
    fates = {}
    for name, text in documents.items():
        own = digest(text)
        decision = decisions.get(own, Decision(own, "", 0.0, True))
        if decision.of:
            of = names[hash_of(decision.of)]
            fates[name] = Fate(of, "near", decision.similarity)
        elif names[own] != name:
            fates[name] = Fate(names[own], "exact", 1.0)
        else:
            fates[name] = Fate(is_compared=decision.is_compared)
    copies = collections.Counter(fate.of or name for name, fate in fates.items())
    return {
        name: fate._replace(copies=0 if fate.of else copies[name]) for name, fate in fates.items()
    }
