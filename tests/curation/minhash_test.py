import itertools
import math
import random
import re

import datasketch
import numpy as np
import pytest

from lm.curation import minhash
from lm.curation.ngram_hashes import ngram_hashes, ngram_set, unit_hashes
from lm.system import splitmix
from tests.curation import planted

BINS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
NUM_BANDS, NUM_ROWS = 16, 6


def jaccard(text, other):
    """Of tuples of five units, without any hash."""
    sets = []
    for one in (text, other):
        units = re.findall("[\u4e00-\u9fff]|[a-z]+", one.lower())
        sets.append({tuple(units[i : i + 5]) for i in range(len(units) - 4)})
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def signatures(texts, num_hashes=NUM_BANDS * NUM_ROWS):
    return [minhash.signature(ngram_set(text, 5), num_hashes) for text in texts]


@pytest.mark.parametrize("language", planted.LANGUAGES)
def test_estimates_and_candidates_follow_theory(language):
    pairs = planted.pairs(language, 1500)
    true = np.array([jaccard(*pair) for pair in pairs])
    signed = [signatures(pair) for pair in pairs]
    estimates = np.array([(a == b).mean() for a, b in signed])
    shared = [minhash.band_keys(a, NUM_BANDS) == minhash.band_keys(b, NUM_BANDS) for a, b in signed]
    is_candidate = np.array(shared).any(axis=1)

    assert abs((estimates - true).mean()) < 0.005
    probability = 1 - (1 - true**NUM_ROWS) ** NUM_BANDS
    for low, high in itertools.pairwise(BINS):
        here = (true >= low) & (true < high)
        expected = probability[here].sum()
        sigma = math.sqrt((probability[here] * (1 - probability[here])).sum())
        assert here.sum() > 50, (low, high, here.sum())
        assert abs(is_candidate[here].sum() - expected) <= 3 * sigma, (low, high)


def test_estimates_are_near_those_of_datasketch():
    generator = random.Random(1)
    for language in planted.LANGUAGES:
        for pair in generator.sample(planted.pairs(language, 200), 20):
            own = np.equal(*signatures(pair, 1024)).mean()
            theirs = [datasketch.MinHash(num_perm=1024) for _ in pair]
            for sketch, text in zip(theirs, pair, strict=True):
                sketch.update_batch([ngram.tobytes() for ngram in ngram_set(text, 5)])
            assert abs(own - theirs[0].jaccard(theirs[1])) < 0.06


def test_long_sets_are_signed_in_parts():
    elements_G = splitmix.numbers(3000)
    parts = [minhash.signature(part, 8) for part in (elements_G[:1700], elements_G[1700:])]

    np.testing.assert_array_equal(minhash.signature(elements_G, 8), np.minimum(*parts))


def test_bands_have_keys_of_their_own():
    same_H = np.zeros(12, np.uint64)
    assert len({*minhash.band_keys(same_H, 4).tolist()}) == 4
    changed_H = same_H.copy()
    changed_H[4] = 1
    np.testing.assert_array_equal(
        minhash.band_keys(same_H, 4) == minhash.band_keys(changed_H, 4), [True, False, True, True]
    )


def test_splitmix_gives_the_numbers_that_others_give():
    # As Vigna's splitmix64.c gives them for the seed 0.
    assert splitmix.numbers(3).tolist() == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


@pytest.mark.parametrize(
    ("text", "other", "num_shared", "num_all"),
    [
        ("One two, three four five six.", "ONE TWO THREE　FOUR ｆｉｖｅ six", 2, 2),
        ("我爱北京天安门", "我爱北京 天安門", 2, 4),
        ("one two three", "One. Two. Three.", 1, 1),
        ("one two three", "one two three four", 0, 2),
        ("one two three four", "one two three four five", 0, 2),
        ("a b c d e", "e d c b a", 0, 2),
        ("……", "", 0, 0),
    ],
)
def test_ngrams_of_texts_are_shared_as_in_this_table(text, other, num_shared, num_all):
    sets = [{*ngram_set(one, 5).tolist()} for one in (text, other)]

    assert (len(sets[0] & sets[1]), len(sets[0] | sets[1])) == (num_shared, num_all)


def test_ngrams_of_different_lengths_are_others():
    zeros_U = np.zeros(9, np.uint64)
    assert len({ngram_hashes(zeros_U, n)[0] for n in range(1, 10)}) == 9
    assert ngram_hashes(unit_hashes("你好"), 3).shape == (0,)
