"""Which documents hold items of an evaluation, and where.

An item is found in a document that holds at least a share of its n-grams. Short n-grams and a
share of the *item* find what was edited and what is short; one long n-gram, or any one, does not.
N-grams that stand in many documents are no evidence and do not count, so a first pass over the
documents counts them:

1. `make_index` of the items.
2. Over all documents `frequencies`; those of parts add up to those of the whole.
3. `without_common` takes out of the index what is common.
4. For each document `matches`; then drop it, or `cut` its paragraphs.

Dimension key: G different n-grams of all items, I items, P pairs of an n-gram and an item that has
it, D n-grams of a document.
"""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from lm.curation.ngram_hashes import hashes_of, ngram_hashes, unit_hashes
from lm.curation.text_units import is_unspaced, normalized, unit_spans, units
from lm.errors import UserError


@dataclasses.dataclass(frozen=True)
class Decontamination:
    """What counts as an item in a document.

    words, characters: units of an n-gram of items whose script has spaces, and has none.
    min_units: an item of fewer is not looked for; one that is shorter than an n-gram is one itself.
    coverage: the share of an item's n-grams that a document must have.
    max_documents, max_share: an n-gram that stands in more documents than the one says, and in more
      than that share of all, does not count.
    """

    words: int
    characters: int
    min_units: int
    coverage: float
    max_documents: int
    max_share: float

    def __post_init__(self):
        """Raises UserError for a value that is out of range."""
        for name in ("words", "characters", "min_units", "max_documents"):
            if getattr(self, name) < 1:
                raise UserError(f"decontaminate.{name}={getattr(self, name)} must be at least 1")
        for name in ("coverage", "max_share"):
            if not 0 < getattr(self, name) <= 1:
                value = getattr(self, name)
                raise UserError(f"decontaminate.{name}={value} must be above 0, at most 1")


class Item(NamedTuple):
    """A text that no training document should hold, and what it is called."""

    name: str
    text: str


class Index(NamedTuple):
    """Items, by their n-grams.

    names: of the items that are looked for.
    hashes_G: sorted; lengths: the numbers of units that n-grams have.
    pairs: pair p says that n-gram ngrams_P[p] stands in item items_P[p]; sorted.
    sizes_I: different n-grams of each item, all of them; counted_I: those that count.
    not_searched: names of items that are not looked for, by the reason: "too_short", "common".
    """

    names: Sequence[str]
    hashes_G: np.ndarray
    lengths: Sequence[int]
    ngrams_P: np.ndarray
    items_P: np.ndarray
    sizes_I: np.ndarray
    counted_I: np.ndarray
    not_searched: dict[str, list[str]]


def make_index(items: Iterable[Item], settings: Decontamination) -> Index:
    """Makes an index; items that differ in case, width and punctuation alone are one."""
    found: dict[bytes, Item] = {}
    sets, names, lengths, too_short = [], [], set(), []
    for item in items:
        item_units = units(normalized(item.text))
        hashes_U = hashes_of(item_units)
        if found.setdefault(hashes_U.tobytes(), item) is not item:
            continue
        if len(item_units) < settings.min_units:
            too_short.append(item.name)
            continue
        # By script and not by a language: that of most units.
        is_spaced = 2 * sum(map(is_unspaced, item_units)) <= len(item_units)
        n = min(settings.words if is_spaced else settings.characters, len(item_units))
        lengths.add(n)
        names.append(item.name)
        sets.append(np.unique(ngram_hashes(hashes_U, n)))
    sizes_I = np.array([len(one) for one in sets], np.int64)
    hashes_G, ngrams_P = np.unique(
        np.concatenate([np.empty(0, np.uint64), *sets]), return_inverse=True
    )
    items_P = np.repeat(np.arange(len(sets)), sizes_I)
    order = np.lexsort((items_P, ngrams_P))
    return Index(
        names,
        hashes_G,
        sorted(lengths),
        ngrams_P[order],
        items_P[order],
        sizes_I,
        sizes_I,
        {"too_short": too_short, "common": []},
    )


def frequencies(index: Index, texts: Iterable[str]) -> np.ndarray:
    """Gives the number of texts that each n-gram of the items stands in: int64 of shape (G,)."""
    total_G = np.zeros(len(index.hashes_G), np.int64)
    for text in texts:
        total_G[np.unique(_found(index, unit_hashes(text))[1])] += 1
    return total_G


def without_common(
    index: Index, frequencies_G: np.ndarray, num_documents: int, settings: Decontamination
) -> Index:
    """Takes out of an index the n-grams that stand in too many documents.

    An item of which half does not count any more is not looked for: what little is left of it
    stands elsewhere, too. It is named in `not_searched`.
    """
    most = max(settings.max_documents, settings.max_share * num_documents)
    counts_P = (frequencies_G <= most)[index.ngrams_P]
    counted_I = np.bincount(index.items_P[counts_P], minlength=len(index.names))
    is_common_I = 2 * counted_I <= index.sizes_I
    counts_P &= ~is_common_I[index.items_P]
    common = [index.names[i] for i in np.flatnonzero(is_common_I)]
    return index._replace(
        ngrams_P=index.ngrams_P[counts_P],
        items_P=index.items_P[counts_P],
        counted_I=counted_I,
        not_searched=index.not_searched | {"common": common},
    )


def _found(index: Index, hashes_U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gives of the n-grams of a document that are in the index: first unit, n-gram, length."""
    parts = []
    for n in index.lengths:
        hashes_D = ngram_hashes(hashes_U, n)
        places_D = np.searchsorted(index.hashes_G, hashes_D)
        np.minimum(places_D, len(index.hashes_G) - 1, out=places_D)
        first = np.flatnonzero(index.hashes_G[places_D] == hashes_D)
        parts.append((first, places_D[first], np.full(len(first), n)))
    if not parts:
        return (np.empty(0, np.int64),) * 3
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True))


class Match(NamedTuple):
    """An item that a document holds.

    item: its name.
    coverage: the share of its n-grams, as far as they count, that stand in the document.
    spans: (start, end) of what stands there, in characters of the text.
    """

    item: str
    coverage: float
    spans: list[tuple[int, int]]


def matches(index: Index, text: str, settings: Decontamination) -> list[Match]:
    """Gives the items that a text holds, in the order of the index."""
    first, ngrams, lengths = _found(index, unit_hashes(text))
    here = _pairs_of(index, np.unique(ngrams))
    items, num_shared = np.unique(index.items_P[here], return_counts=True)
    coverages = num_shared / index.counted_I[items]
    is_held = coverages >= settings.coverage
    if not is_held.any():
        return []
    places = _places(text)
    found = []
    for item, coverage in zip(items[is_held], coverages[is_held], strict=True):
        of_item = np.isin(ngrams, index.ngrams_P[here][index.items_P[here] == item])
        spans: list[tuple[int, int]] = []
        for unit, length in sorted(zip(first[of_item], lengths[of_item], strict=True)):
            start, end = places[unit][0], places[unit + length - 1][1]
            if spans and start <= spans[-1][1]:
                start, end = spans[-1][0], max(end, spans.pop()[1])
            spans.append((start, end))
        found.append(Match(index.names[item], float(coverage), spans))
    return found


def _pairs_of(index: Index, ngrams: np.ndarray) -> np.ndarray:
    """Gives the places of all pairs with these n-grams."""
    starts = np.searchsorted(index.ngrams_P, ngrams, "left")
    counts = np.searchsorted(index.ngrams_P, ngrams, "right") - starts
    # 3, 4 and 9, for starts of 3 and 9 with counts of 2 and 1.
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(starts, counts) + np.arange(counts.sum()) - before


def _places(text: str) -> list[tuple[int, int]]:
    """Gives for each unit of the normalised text its (start, end) in the text itself.

    "The ﬁsh" -> [(0, 3), (4, 7)], though "fish" has a letter more.
    """
    found, start = [], 0
    for line in text.splitlines(keepends=True):  # No unit reaches over the end of a line.
        wanted = units(normalized(line))
        given = [
            (span, unit)
            for span in unit_spans(line)
            for unit in units(normalized(line[slice(*span)]))
        ]
        if [unit for _, unit in given] == wanted:
            found += [(start + first, start + last) for (first, last), _ in given]
        else:  # Characters that show nothing stand in a word, or a symbol is a word.
            found += [(start, start + len(line))] * len(wanted)
        start += len(line)
    return found


_BLANK = re.compile(r"\n[^\S\n]*\n\s*")


def cut(text: str, found: Iterable[Match]) -> str:
    r"""Takes the paragraphs with a match out of a text.

    Paragraphs are parted by blank lines; in a text that has none, each line is one.
    "a\n\nb c\n\nd" with a match in b -> "a\n\nd".
    """
    ends = [end.end() for end in _BLANK.finditer(text)]
    ends = ends or [place + 1 for place, character in enumerate(text) if character == "\n"]
    spans = [span for match in found for span in match.spans]
    kept, start = [], 0
    for end in [*ends, len(text)]:
        if not any(first < end and last > start for first, last in spans):
            kept.append(text[start:end])
        start = end
    return "".join(kept)
