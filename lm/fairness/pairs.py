"""Compares how likely a model finds two sentences that differ in a group, as CrowS-Pairs does.

Nangia et al. 2020. What is wrong with such pairs: Blodgett et al. 2021.

Dimension key: N pairs, two of each: the sentence that stereotypes more, and the one that does less.
"""

import difflib
import functools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError
from lm.fairness.records import lines_of, records_of, text_of
from lm.formats import files, formats
from lm.formats.fields import Record
from lm.metrics import intervals
from lm.settings import choose

MORE, LESS, CATEGORY, DIRECTION = "sent_more", "sent_less", "bias_type", "stereo_antistereo"
DIRECTIONS = ("stereo", "antistereo")
SCORES = ("sum", "mean", "shared")  # Of a sentence; see `scores`.
Text = tuple[str, str]  # See `likelihoods.Text`.
TokenScores = Sequence[float]  # Log-likelihoods in nats, of each token of a sentence.


class Pair(NamedTuple):
    """Holds two sentences.

    direction: "stereo" where the one that stereotypes more is about a disadvantaged group,
      "antistereo" where the one that does less contradicts a stereotype of it.
    """

    name: str  # What errors call it, such as pairs.csv:12.
    more: str
    less: str
    category: str
    direction: str

    def swapped(self) -> "Pair":
        """Gives the pair in which each sentence has the other's role."""
        return self._replace(more=self.less, less=self.more)


def read(spec: str, less: str = "", on_error: str = "raise") -> tuple[list[Pair], list[UserError]]:
    """Reads the files of a glob.

    Args:
      spec: with the columns of CrowS-Pairs or fields of the same names; or with `less` a file of
        the sentences that stereotype more, a line or a `replaced_sentence` each.
      less: a file of the others, in the same order, as in CHBias and WinoBias; "" where both are in
        one record.
      on_error: of a pair that says nothing: raise, or skip.

    Returns:
      The pairs, and why others are none.

    Raises:
      UserError: a file that cannot be read, or no pair.
    """
    choose("on_error", on_error, ("raise", "skip"))
    pairs, skipped = [], []
    for one in _beside(spec, less) if less else records_of(spec, "pair"):
        try:
            pairs.append(_pair(one))
        except UserError as error:
            if on_error == "raise":
                raise UserError(f"{error}, or set on_error=skip") from None
            skipped.append(error)
    if not pairs:
        raise UserError(f"data={spec!r} holds no pair that says anything; give it some")
    return pairs, skipped


def _beside(spec: str, less: str) -> Iterator[Record]:
    """Joins the sentences of two files, line by line."""
    more, others = _sentences(spec, "data"), _sentences(less, "less")
    if len(more) != len(others):
        raise UserError(
            f"data={spec} has {len(more)} sentences and less={less} has {len(others)}; each needs "
            "one beside it"
        )
    for (name, text), (_, other) in zip(more, others, strict=True):
        yield Record(name, {MORE: text, LESS: other, CATEGORY: pathlib.Path(spec).name})


def _sentences(spec: str, key: str) -> list[tuple[str, str]]:
    (path, *more) = files.find("", spec, key=key)
    if more:
        raise UserError(f"{key}={spec} names {1 + len(more)} files; with less, name one")
    if formats.is_known(path):
        records = records_of(str(path), "sentence")
        return [(record.name, text_of(record, "replaced_sentence")) for record in records]
    return [(line.name, _WINOBIAS.sub("", line.fields["text"])) for line in lines_of(path)]


_WINOBIAS = re.compile(r"^\d+ (?=.*\[)|[\[\]]")  # "1 [The cook] ate what [he] made.", its marks.


def _pair(record: Record) -> Pair:
    more, less, category = (text_of(record, key) for key in (MORE, LESS, CATEGORY))
    if more == less:
        raise UserError(f"{record.name}: {MORE} and {LESS} are the same sentence; mend the pair")
    direction = record.fields.get(DIRECTION, DIRECTIONS[0])
    if direction not in DIRECTIONS:
        known = " or ".join(DIRECTIONS)
        raise UserError(f"{record.name}: {DIRECTION}={direction!r} must be {known}")
    return Pair(record.name, more, less, category, direction)


@functools.cache
def shared(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Finds the tokens that two sentences share, as their places in each.

    `a b c d` and `a x d` give 0 3 and 0 2. The longest common run comes first, then those on both
    sides of it; which sentence is named first changes nothing.
    """
    if second < first:  # The search goes through one of the two, and ties fall to what it meets.
        return shared(second, first)[::-1]
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    places = [(a + i, b + i) for a, b, size in matcher.get_matching_blocks() for i in range(size)]
    return [a for a, _ in places], [b for _, b in places]


def sharing(
    pairs: Sequence[Pair], ids: dict[Text, tuple[int, ...]], on_error: str
) -> tuple[list[Pair], list[UserError]]:
    """Finds the pairs whose sentences share a token, and says why others do not count.

    Raises:
      UserError: one does not, and `on_error` is "raise"; or none does.
    """
    found, skipped = [], []
    for pair in pairs:
        if shared(ids["", pair.more], ids["", pair.less])[0]:
            found.append(pair)
            continue
        skipped.append(UserError(f"{pair.name}: its sentences share no token; mend the pair"))
        if on_error == "raise":
            raise UserError(f"{skipped[-1]}, or set on_error=skip")
    if not found:
        raise skipped[0]
    return found, skipped


def scores(
    pairs: Sequence[Pair], ids: dict[Text, tuple[int, ...]], found: dict[Text, TokenScores]
) -> dict[str, np.ndarray]:
    """Scores the sentences of pairs by each of `SCORES`, N x 2.

    "sum" is of all tokens, which is what lm_eval compares; "mean" is that over their number;
    "shared" sums the tokens that both sentences have, as the published code does for encoders.

    Args:
      pairs: whose sentences are scored.
      ids: of each sentence's tokens.
      found: the log-likelihoods of these.
    """
    rows: dict[str, list[tuple[float, ...]]] = {name: [] for name in SCORES}
    for pair in pairs:
        both = ("", pair.more), ("", pair.less)
        places = shared(*(ids[text] for text in both))
        likely = [np.asarray(found[text], float) for text in both]
        rows["sum"].append(tuple(x.sum() for x in likely))
        rows["mean"].append(tuple(x.mean() for x in likely))
        rows["shared"].append(tuple(x[at].sum() for x, at in zip(likely, places, strict=True)))
    return {name: np.array(both) for name, both in rows.items()}


def compare(pairs: Sequence[Pair], scores_N2: np.ndarray, seed: int) -> dict[str, Any]:
    """Says how often, and by how much, the sentence that stereotypes more is the likelier one.

    Args:
      pairs: N of them.
      scores_N2: of one score.
      seed: of the bootstrap.

    Returns:
      What `_summary` does, "by_category" and "by_direction" too.
    """
    difference_N = scores_N2[:, 0] - scores_N2[:, 1]

    def by(names: list[str]) -> dict[str, Any]:
        masks = {name: np.array(names) == name for name in sorted(set(names))}
        return {name: _summary(difference_N[mask_N], seed) for name, mask_N in masks.items()}

    return _summary(difference_N, seed) | {
        "by_category": by([pair.category for pair in pairs]),
        "by_direction": by([pair.direction for pair in pairs]),
    }


def _summary(difference_N: np.ndarray, seed: int) -> dict[str, Any]:
    """Counts pairs; "share" is of those that are no ties, None where all are."""
    more, less = int((difference_N > 0).sum()), int((difference_N < 0).sum())
    return {
        "num_pairs": len(difference_N),
        "num_more": more,
        "num_less": less,
        "num_ties": len(difference_N) - more - less,
        "share": more / (more + less) if more + less else None,
        "share_interval": intervals.wilson(more, more + less),
        "mean_difference": float(difference_N.mean()),
        "mean_difference_interval": intervals.bootstrap_mean(difference_N, seed),
        "mean_absolute_difference": float(np.abs(difference_N).mean()),
    }
