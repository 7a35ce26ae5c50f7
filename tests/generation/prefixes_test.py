"""Which prompts are remembered, and what of them serves another."""

import numpy as np
import pytest

from lm.generation.prefixes import Prefixes

ONE = 400  # Bytes of what `remembered` keeps for each.


def remembered(max_bytes, *prompts):
    prefixes = Prefixes(max_bytes)
    for prompt in prompts:
        prefixes.add(prompt, [np.zeros(100, np.float32)])
    return prefixes


@pytest.mark.parametrize(
    ("prompts", "wanted", "num"),
    [
        ([], [1, 2], 0),
        ([[1, 2, 3]], [1, 2, 3, 4], 3),
        ([[1, 2, 3]], [1, 2, 5], 2),
        ([[1, 2, 3]], [1, 2], 2),
        ([[1, 2, 3]], [2, 2, 3], 0),
        ([[1, 2, 3]], [], 0),
        ([[1, 7], [1, 2, 3], [1, 2]], [1, 2, 3, 9], 3),
    ],
)
def test_the_longest_beginning_is_found(prompts, wanted, num):
    found, caches = remembered(10 * ONE, *prompts).find(wanted)

    assert found == num
    assert (caches is None) == (num == 0)


def test_what_was_not_used_for_longest_is_forgotten():
    prefixes = remembered(2 * ONE, [1, 1], [2, 2])
    prefixes.find([1, 1])

    prefixes.add([3, 3], [np.zeros(100, np.float32)])

    assert [prefixes.find([i, i])[0] for i in (1, 2, 3)] == [2, 0, 2]
    assert prefixes.num_bytes == 2 * ONE


def test_a_prompt_takes_the_place_of_its_beginning():
    prefixes = remembered(10 * ONE, [1, 2], [5], [1, 2, 3])

    assert prefixes.num_bytes == 2 * ONE
    prefixes.add([1, 2, 3], [np.zeros(100, np.float32)])
    assert prefixes.num_bytes == 2 * ONE
    prefixes.clear()
    assert (prefixes.num_bytes, prefixes.find([1, 2])) == (0, (0, None))


def test_what_is_larger_than_all_room_is_not_remembered():
    prefixes = remembered(ONE - 1, [1, 2])

    assert (prefixes.num_bytes, prefixes.find([1, 2])) == (0, (0, None))
