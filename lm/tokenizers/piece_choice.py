"""Chooses new pieces for a tokenizer: those that save the most tokens of a text.

A text is words of units: a unit is the id of a token that the old tokenizer gives, or a character
that it does not know, by itself. No piece goes beyond a word.
"""

import itertools
import json
import math
from collections.abc import Callable, Container, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import models, trainers

from lm.errors import UserError

Unit = int | str
Run = tuple[Unit, ...]

_FIRST = 0x10000  # From here to the last code point there is no gap.
_MAX_UNITS = 0x110000 - _FIRST


class Merge(NamedTuple):
    """Two runs of units that stand side by side, and the tokens that joining them saves."""

    left: Run
    right: Run
    saving: int

    @property
    def run(self) -> Run:
        """Returns what they make."""
        return self.left + self.right


class Choice(NamedTuple):
    """What is to become a piece: characters, those that save most first, and merges, in the order
    in which a BPE makes them. `counts`: tokens of the text that each run is, once all are made.
    """

    characters: list[str]
    merges: list[Merge]
    counts: dict[Run, int]


def choose(
    words: Mapping[Run, int],
    costs: Mapping[str, int],
    num_pieces: int,
    *,
    spell: Callable[[Run], str],
    known: Container[str] = (),
    reserved: Container[str] = (),
) -> Choice:
    """Chooses what saves the most tokens, so that both parts of each merge are pieces themselves.

    Merges are those of byte-pair encoding (Sennrich et al. 2016) of the old tokens: at each step
    the pair that stands in the text most often, which is the one that saves the most. A character
    saves what the old tokenizer spends on it beyond one token.

        {("a", 7): 3, ("a",): 1}, costs {"a": 3}, 2 pieces
            "a" saves 2 x 4 tokens, and ("a", 7) then 3

    Args:
      words: how often the text has each.
      costs: of each character, the tokens that it takes now.
      num_pieces: how many pieces to choose; fewer where no more would save anything.
      spell: a run -> the piece that it would be.
      known: pieces that there are; a merge that makes one is kept, and counts for nothing.
      reserved: what no piece may be spelled like.

    Raises:
      UserError: the text has more different units than there are letters to write them in.
    """
    merges, formed = _merges(words, num_pieces)
    twice = {char: formed[char,] for char in costs if formed[char,] > 1}
    savings = {char: (cost - 1) * twice.get(char, 0) for char, cost in costs.items()}
    characters = sorted(costs, key=lambda char: (-savings[char], char))
    worth: dict[Run, float] = {(char,): savings[char] for char in characters}
    for merge in merges:  # A merge is worth no more than what it needs.
        parts = (worth.get(part, math.inf) for part in (merge.left, merge.right))
        worth[merge.run] = 0 if spell(merge.run) in reserved else min(merge.saving, *parts)
    chosen, spelled = set(), set()
    # Stable: what is worth the same stays in this order, parts before what is made of them.
    for run in sorted(worth, key=lambda run: -worth[run]):
        if worth[run] <= 0 or len(spelled) == num_pieces:
            break
        chosen.add(run)
        if (text := spell(run)) not in known:
            spelled.add(text)
    kept = [merge for merge in merges if merge.run in chosen]
    counts = {run: formed[run] for run in chosen}
    for merge in kept:
        for part in (merge.left, merge.right):
            if part in counts:
                counts[part] -= merge.saving
    return Choice([char for char in characters if (char,) in chosen], kept, counts)


def _merges(words: Mapping[Run, int], num: int) -> tuple[list[Merge], dict[Run, int]]:
    """Lists merges in order, and how often each run of units is made on the way, or is there."""
    units = sorted(set(itertools.chain(*words)), key=lambda unit: (isinstance(unit, str), unit))
    if len(units) > _MAX_UNITS:
        raise UserError(f"the text has {len(units)} different tokens; {_MAX_UNITS} are possible")
    letters = {unit: chr(_FIRST + i) for i, unit in enumerate(units)}
    unit_of = {letter: unit for unit, letter in letters.items()}
    runs = {"".join(map(letters.__getitem__, word)): count for word, count in words.items()}
    # The library makes merges of characters: each unit is one here.
    library = tokenizers.Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=len(units) + num, min_frequency=2, show_progress=False)
    library.train_from_iterator(_repeated(runs), trainer)
    pairs = json.loads(library.to_str())["model"]["merges"]
    counts_V = np.zeros(library.get_vocab_size(), np.int64)
    for encoding, count in zip(library.encode_batch_fast(list(runs)), runs.values(), strict=True):
        np.add.at(counts_V, encoding.ids, count)
    counts = {run: int(counts_V[i]) for run, i in library.get_vocab().items()}
    first = {}  # Of several pairs that make one run, the first is by far the most frequent.
    for left, right in pairs:
        first.setdefault(left + right, (left, right))
    for run, (left, right) in reversed(first.items()):
        counts[left] += counts[run]
        counts[right] += counts[run]
    as_units = lambda run: tuple(map(unit_of.__getitem__, run))
    merges = [
        Merge(as_units(left), as_units(right), counts[run]) for run, (left, right) in first.items()
    ]
    return merges, {as_units(run): count for run, count in counts.items()}


def _repeated(runs: Mapping[str, int]) -> Iterator[str]:
    return itertools.chain.from_iterable(itertools.repeat(*item) for item in runs.items())
