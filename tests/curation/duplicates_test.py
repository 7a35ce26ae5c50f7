import itertools
import random
import re

import numpy as np
import pytest

from lm.curation import duplicates
from lm.curation.duplicates import Contested, NearDuplicates
from lm.errors import UserError
from tests.curation import planted
from tests.curation.duplicates_in_memory import Fate, find

SETTINGS = dict(
    ngram=5, num_bands=16, band_rows=6, threshold=0.8, measure="jaccard", max_compared=32
)
NEAR = NearDuplicates(**SETTINGS)


def ngrams(text):
    units = re.findall("[\u4e00-\u9fff]|[a-z]+", text.lower())
    return {tuple(units[i : i + 5]) for i in range(len(units) - 4)} or {tuple(units)} - {()}


def jaccard(a, b):
    return len(a & b) / max(1, len(a | b))


def containment(kept, other):
    return len(kept & other) / len(other)


MEASURES = {"jaccard": jaccard, "containment": containment}


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("language", planted.LANGUAGES)
def test_what_is_dropped_is_similar_to_what_is_kept(language, measure):
    texts = planted.families(language, 250)
    settings = NearDuplicates(**SETTINGS | {"measure": measure})

    fates = find(texts, settings)

    found = {name: ngrams(text) for name, text in texts.items()}
    kept = [name for name, fate in fates.items() if not fate.of]
    assert {fate.of for fate in fates.values()} - {""} <= {*kept}
    near = 0
    for name, fate in fates.items():
        if fate.reason == "near":
            similarity = MEASURES[measure](found[fate.of], found[name])
            assert similarity == fate.similarity >= 0.8
            near += similarity < 1
        elif fate.reason == "exact":
            assert texts[name] == texts[fate.of]
    assert near > 50
    assert sum(fate.copies for fate in fates.values()) == len(texts)
    # Brute force over all pairs; of those that MinHash shows, no two kept ones are similar.
    similar = [
        (a, b)
        for a, b in itertools.combinations(found, 2)
        if jaccard(found[a], found[b]) >= 0.8 and not (fates[a].of and fates[b].of)
    ]
    caught = [pair for pair in similar if fates[pair[0]].of or fates[pair[1]].of]
    assert len(similar) > 100
    assert len(caught) >= 0.99 * len(similar)
    for a, b in set(similar) - set(caught):
        keys = [{*duplicates.sketch(texts[name], settings).keys} for name in (a, b)]
        assert not keys[0] & keys[1], "candidates, and both were kept"


def test_nothing_is_dropped_for_a_chain():
    generator = random.Random(3)
    chain = [planted.base(generator, "english", 100)]
    for place in range(12, 92, 4):
        words = chain[-1].split()
        words[place] = "changed"
        chain.append(" ".join(words))
    fates = find({f"{i:02d}": text for i, text in enumerate(chain)}, NEAR)

    kept = [name for name, fate in fates.items() if not fate.of]
    assert len(kept) > 3, "each is similar to the next, and the first unlike the last"


def test_neither_order_nor_shards_change_what_is_kept():
    texts = planted.families("chinese", 60) | planted.families("english", 60)
    fates = find(texts, NEAR)
    for seed in range(5):
        items = list(texts.items())
        random.Random(seed).shuffle(items)
        assert find(dict(items), NEAR) == fates


def test_components_alone_are_decided_as_all_together():
    texts = {*planted.families("english", 150).values()}
    sketches = [(duplicates.sketch(text, NEAR), text) for text in texts]
    text_of = {sketch.rank: text for sketch, text in sketches}
    keys = sorted((key, sketch.rank) for sketch, _ in sketches for key in sketch.keys)
    found = list(duplicates.memberships(keys))
    contested = [
        Contested(rank, [m[1:3] for m in group], duplicates.ngrams(text_of[rank], NEAR))
        for rank, group in itertools.groupby(sorted(found), key=lambda m: m.rank)
    ]
    links = [(membership.rank, membership.first) for membership in found]
    component = dict(duplicates.components(random.Random(0).sample(links, len(links))))

    decisions = sorted(duplicates.survivors(contested, NEAR))

    assert component == dict(duplicates.components(sorted(links)))
    assert component.keys() == {document.rank for document in contested}
    for _, bucket in itertools.groupby(found, key=lambda m: m.key):
        assert len({component[membership.rank] for membership in bucket}) == 1
    names = {*component.values()}
    assert names <= {duplicates.hash_of(rank) for rank in component} and len(names) > 40
    apart = []
    for name in sorted(names, key=lambda name: name[::-1]):
        members = [document for document in contested if component[document.rank] == name]
        assert duplicates.hash_of(members[0].rank) == name
        apart += duplicates.survivors(members, NEAR)
    assert sorted(apart) == decisions


def test_links_join_components_whatever_bytes_their_ranks_end_in():
    a, b, c, d, e = (
        f"0000000{i}" + end * 16 for i, end in enumerate(("f0", "00", "0a", "00", "a0"))
    )

    found = duplicates.components([(b, b), (b, a), (c, b), (e, d)])

    of_first, of_other = duplicates.hash_of(a), duplicates.hash_of(d)
    assert dict(found) == {a: of_first, b: of_first, c: of_first, d: of_other, e: of_other}


def test_the_longest_is_kept_and_stands_for_its_copies():
    text = planted.base(random.Random(0), "chinese", 60)
    texts = {"a": text, "b": text + "。", "c": text + "又及", "d": text, "e": "别的。", "f": ""}

    fates = find(texts, NEAR)

    assert fates["c"] == Fate(copies=4)
    assert fates["a"] == fates["d"] == fates["b"] == Fate("c", "near", 56 / 58)
    assert fates["e"] == fates["f"] == Fate(copies=1)


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["one two", "One two!", "one, two"], 1),
        (["one two", "one two three", "two one"], 3),
        (["……", "!!", ""], 3),
        (["", "", ""], 1),
        (["是", "是。", "不"], 2),
    ],
)
def test_texts_too_short_for_an_ngram_are_compared_whole(texts, kept):
    fates = find({str(i): text for i, text in enumerate(texts)}, NEAR)

    assert sum(not fate.of for fate in fates.values()) == kept


def test_copies_cost_no_comparison_and_near_copies_one(monkeypatch):
    calls = count_comparisons(monkeypatch)
    text = planted.base(random.Random(0), "english", 60)
    fates = find({str(i): text for i in range(10_000)}, NEAR)
    assert not calls and sum(not fate.of for fate in fates.values()) == 1

    fates = find({str(i): f"{text}{'!' * i}" for i in range(500)}, NEAR)
    assert len(calls) == 499 and sum(not fate.of for fate in fates.values()) == 1


def count_comparisons(monkeypatch):
    calls = []
    intersect = np.intersect1d
    counted = lambda *args, **kwargs: calls.append(args) or intersect(*args, **kwargs)
    monkeypatch.setattr(np, "intersect1d", counted)
    return calls


def test_what_was_not_compared_is_kept_and_counted(monkeypatch):
    generator = random.Random(0)
    template = planted.base(generator, "english", 60)
    texts = {f"{i:03d}": f"{template} {planted.base(generator, 'english', 25)}" for i in range(200)}
    texts["copy"] = texts["000"].replace(" ", "  ")
    calls = count_comparisons(monkeypatch)

    fates = find(texts, NearDuplicates(**SETTINGS | {"max_compared": 4}))

    kept = [name for name, fate in fates.items() if not fate.of]
    not_compared = [name for name in kept if not fates[name].is_compared]
    assert len(not_compared) > 100
    assert len(calls) < 4 * 16 * len(texts)
    assert {name for name, fate in fates.items() if fate.of} <= {"copy", "000"}
    assert all(fates[name].copies >= 1 for name in kept)

    all_compared = find(texts, NearDuplicates(**SETTINGS | {"max_compared": 201}))
    assert all(fate.is_compared for fate in all_compared.values())
    assert sum(bool(fate.of) for fate in all_compared.values()) == 1


def test_containment_drops_an_excerpt():
    text = planted.base(random.Random(0), "english", 200)
    excerpt = " ".join(text.split()[20:180])
    texts = {"whole": text, "part": excerpt}

    assert not find(texts, NearDuplicates(**SETTINGS | {"threshold": 0.9}))["part"].of
    settings = NearDuplicates(**SETTINGS | {"measure": "containment", "threshold": 0.9})
    assert find(texts, settings)["part"] == Fate("whole", "near", 1.0)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"ngram": 0}, "duplicates.ngram=0 must be at least 1"),
        ({"num_bands": -1}, "duplicates.num_bands=-1"),
        ({"threshold": 0.0}, "duplicates.threshold=0.0 must be above 0"),
        ({"threshold": 80}, "duplicates.threshold=80"),
        ({"measure": "cosine"}, "'cosine' is unknown; there are jaccard, containment"),
    ],
)
def test_settings_out_of_range_are_named(changed, named):
    with pytest.raises(UserError, match=re.escape(named)):
        NearDuplicates(**SETTINGS | changed)
